//! Logging in to a server: by SCRAM-SHA-256, or without a password where the server asks for none.

use std::io::Write;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    message::{
        backend::{AuthenticationSaslBody, Message},
        frontend,
    },
};

use super::{
    failure::{Failure, Report},
    messages::Messages,
    stream::Stream,
};
use crate::config::Target;

/// By which another connection can cancel what this one runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct CancelKey {
    pub(super) process: i32,
    pub(super) secret: i32,
}

/// The state of the password's exchange.
enum Scram {
    NotAsked,
    Asked(ScramSha256),
    /// The server has shown that it knows the password, too.
    Verified,
}

/// Logs in, and gives the key for cancelling, where the server has one.
pub(super) fn log_in(
    stream: &mut Stream,
    messages: &mut Messages,
    target: &Target,
) -> Result<Option<CancelKey>, Failure> {
    let mut output = BytesMut::new();
    // A pooler knows these, and refuses others.
    let parameters = [
        ("user", target.user.as_str()),
        ("database", target.database.as_str()),
        ("client_encoding", "UTF8"),
        ("application_name", "mailslot"),
    ];
    frontend::startup_message(parameters, &mut output)?;
    stream.write_all(&output)?;
    let (mut scram, mut key) = (Scram::NotAsked, None);
    loop {
        output.clear();
        match messages.next(stream)? {
            Message::AuthenticationOk => {
                if matches!(scram, Scram::Asked(_)) {
                    return Err(Failure::unexpected("the server has not shown that it is genuine"));
                }
            }
            Message::AuthenticationSasl(body) => {
                let started = begin(&body, target)?;
                frontend::sasl_initial_response(SCRAM_SHA_256, started.message(), &mut output)?;
                scram = Scram::Asked(started);
            }
            Message::AuthenticationSaslContinue(body) => {
                let Scram::Asked(started) = &mut scram else { return Err(out_of_order()) };
                started.update(body.data())?;
                frontend::sasl_response(started.message(), &mut output)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let Scram::Asked(started) = &mut scram else { return Err(out_of_order()) };
                started.finish(body.data()).map_err(|_| {
                    Failure::Settings("the server does not know the user's password itself".into())
                })?;
                scram = Scram::Verified;
            }
            Message::BackendKeyData(body) => {
                key = Some(CancelKey { process: body.process_id(), secret: body.secret_key() });
            }
            Message::ErrorResponse(body) => {
                return Err(Report::read(body.fields())?.into_failure().of_login(target));
            }
            Message::ReadyForQuery(_) => return Ok(key),
            other => refuse(&other)?,
        }
        if !output.is_empty() {
            stream.write_all(&output)?;
        }
    }
}

/// Other ways to log in; notices and parameters such as the server's version are let by.
fn refuse(message: &Message) -> Result<(), Failure> {
    let sentence = match message {
        Message::AuthenticationCleartextPassword | Message::AuthenticationMd5Password(_) => {
            "it asks for the password in clear or as MD5: set password_encryption = \
             'scram-sha-256' there, set the password again, and write scram-sha-256 in pg_hba.conf"
        }
        Message::AuthenticationGss
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationSspi => {
            "it asks for another proof than a password: write scram-sha-256 in pg_hba.conf"
        }
        _ => return Ok(()),
    };
    Err(Failure::Settings(sentence.to_owned()))
}

fn begin(offered: &AuthenticationSaslBody, target: &Target) -> Result<ScramSha256, Failure> {
    if !offered.mechanisms().any(|name| Ok(name == SCRAM_SHA_256))? {
        return Err(Failure::Settings("it does not offer SCRAM-SHA-256".to_owned()));
    }
    let password = target.password.as_ref().ok_or_else(|| {
        Failure::Settings("it asks for a password, and DATABASE_URL has none".to_owned())
    })?;
    Ok(ScramSha256::new(password.expose(), ChannelBinding::unsupported()))
}

fn out_of_order() -> Failure {
    Failure::unexpected("the server's messages of the login are out of order")
}
