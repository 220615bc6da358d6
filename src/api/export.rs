//! `GET /export`: every message that the filters match, as lines of JSON or of CSV.

use super::{
    answer::{Answer, Context, ExportQuery},
    query::{Filters, Parameter, Query, parameters},
};
use crate::{
    error::Error,
    format::{FORMATS, Format},
    http::Request,
};

parameters! {
    Export {
        format: Format = choice(FORMATS),
    }
}

pub(super) const PARAMETERS: &[&[Parameter]] = &[Filters::PARAMETERS, Export::PARAMETERS];

pub(super) fn start(_: &mut Context, request: &Request<'_>) -> Result<Answer, Error> {
    let mut query = Query::of(request);
    let filter = Filters::read(&mut query).into();
    let Export { format } = Export::read(&mut query);
    query.finish()?;
    Ok(Answer::Export(ExportQuery { filter, format }))
}
