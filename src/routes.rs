//! The whole API on one screen.

use crate::{
    api::{Handler, health, messages, metrics, stats, webhook},
    error::Error,
    http::Method::{self, Get, Head, Post},
};

#[rustfmt::skip]
pub(crate) const ROUTES: &[(Method, &str, Handler)] = &[
    (Post, "/webhook",      webhook::receive),
    (Get,  "/messages",     messages::list),
    (Get,  "/stats",        stats::show),
    (Get,  "/health/live",  health::live),
    (Get,  "/health/ready", health::ready),
    (Get,  "/metrics",      metrics::show),
];

/// HEAD works where GET does.
pub(crate) fn find(method: &Method, path: &str) -> Result<Handler, Error> {
    let asked = if *method == Head { &Get } else { method };
    let here = || ROUTES.iter().filter(|(_, route, _)| *route == path);
    match here().find(|(method, ..)| method == asked) {
        Some((.., handler)) => Ok(*handler),
        None if here().next().is_none() => Err(Error::NotFound),
        None => {
            let allow = here().map(|(method, ..)| match method {
                Get => "GET, HEAD",
                other => other.as_str(),
            });
            Err(Error::MethodNotAllowed { allow: allow.collect::<Vec<_>>().join(", ") })
        }
    }
}
