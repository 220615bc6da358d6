//! Every way in which a request can be refused, and what follows from it: the status, the body, the
//! headers and the metric.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::metrics::WebhookResult;

/// Why a request is refused. Statuses and bodies are those of docs/CONTRACT.md.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Error {
    /// 400: framing that two HTTP parsers could read in two ways.
    Framing(&'static str),
    /// 401, in the same words whatever was wrong with the signature.
    InvalidSignature,
    /// 401 of an endpoint that needs a read token, with the schemes that are accepted. A page's own
    /// script asks the user for the token, so the browser must not ask, too: `Basic` is left out
    /// then.
    NoReadToken { is_script: bool },
    /// 403: a set-up request of a provider without the operator's token.
    WrongVerifyToken,
    /// 404
    NotFound,
    /// 405, with `Allow`.
    MethodNotAllowed { allow: String },
    /// 409: a cursor of /feed that this database has never given.
    CursorAhead,
    /// 413
    TooLarge { limit_bytes: usize },
    /// 421: no read token is set, and the request names a host that an attacker's DNS could resolve
    /// to this server.
    ForeignHost,
    /// 422 with every problem. The id is for the log, where it could be read.
    Invalid { problems: Vec<Problem>, message_id: Option<String> },
    /// 429 with `Retry-After`: more requests than the operator's limits allow.
    TooMany,
    /// 500: a bug or a panic. The log has the cause, the client does not.
    Internal,
    /// 503 with `Retry-After`: the request can succeed later.
    Unavailable(&'static str),
    /// 503 of /health/ready, whose body also has a `status`.
    NotReady(&'static str),
}

/// Of a database that does not do what it is asked to do now, for a reason that may pass, or that
/// the operator can mend.
pub(crate) const STORAGE_UNAVAILABLE: Error =
    Error::Unavailable("storage is unavailable, try again later");

/// One entry of FastAPI's `detail` list, in Pydantic v2's words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Problem {
    pub(crate) r#type: &'static str,
    pub(crate) loc: Vec<Value>,
    pub(crate) msg: String,
    pub(crate) input: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ctx: Option<Value>,
}

/// Bytes of `input` beyond which it is cut.
pub(crate) const INPUT_ECHO_BYTES_MAX: usize = 512;

impl Problem {
    /// `input` is cut to [`INPUT_ECHO_BYTES_MAX`], so that no request causes a long response.
    pub(crate) fn new(
        r#type: &'static str,
        loc: impl IntoIterator<Item = Value>,
        msg: impl Into<String>,
        input: &Value,
        ctx: Option<Value>,
    ) -> Problem {
        Problem { r#type, loc: loc.into_iter().collect(), msg: msg.into(), input: echo(input), ctx }
    }
}

fn echo(input: &Value) -> Value {
    let text = match input {
        Value::Null | Value::Bool(_) => return input.clone(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() <= INPUT_ECHO_BYTES_MAX {
        return input.clone();
    }
    let end = text.floor_char_boundary(INPUT_ECHO_BYTES_MAX);
    Value::String(format!("{}…", &text[..end]))
}

/// What follows from an error: the response, and the result that counts if it was a delivery.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) result: WebhookResult,
    /// JSON.
    pub(crate) body: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Distinguishes the causes of one status in the log.
    pub(crate) reason: Option<&'static str>,
}

/// The body, with its members in this order.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    detail: Detail<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Text(Cow<'a, str>),
    Problems(&'a [Problem]),
}

impl<'a> From<&'a str> for Detail<'a> {
    fn from(text: &'a str) -> Detail<'a> {
        Detail::Text(Cow::Borrowed(text))
    }
}

impl Error {
    /// The one place that decides what an error is outside of the program: its status, its body,
    /// its headers and its metric. The log line of the request has the same status and result.
    pub(crate) fn refusal(&self) -> Refusal {
        use WebhookResult::{
            BadRequest, InternalError, InvalidSignature, RateLimited, TooLarge, Unavailable,
            ValidationError,
        };
        let (status, result, detail) = match self {
            Error::Framing(reason) => (400, BadRequest, Detail::from(*reason)),
            Error::InvalidSignature => (401, InvalidSignature, "invalid signature".into()),
            Error::NoReadToken { .. } => (401, BadRequest, NO_READ_TOKEN.into()),
            Error::WrongVerifyToken => (403, BadRequest, "wrong verify token".into()),
            Error::NotFound => (404, BadRequest, "Not Found".into()),
            Error::MethodNotAllowed { .. } => (405, BadRequest, "Method Not Allowed".into()),
            Error::CursorAhead => (409, BadRequest, CURSOR_AHEAD.into()),
            Error::TooLarge { limit_bytes } => {
                let detail = format!("body larger than {limit_bytes} bytes");
                (413, TooLarge, Detail::Text(detail.into()))
            }
            Error::ForeignHost => (421, BadRequest, FOREIGN_HOST.into()),
            Error::Invalid { problems, .. } => (422, ValidationError, Detail::Problems(problems)),
            Error::TooMany => (429, RateLimited, "too many requests, try again later".into()),
            Error::Internal => (500, InternalError, "Internal Server Error".into()),
            Error::Unavailable(reason) | Error::NotReady(reason) => {
                (503, Unavailable, Detail::from(*reason))
            }
        };
        let body =
            Body { status: matches!(self, Error::NotReady(_)).then_some("not ready"), detail };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let reason = match self {
            Error::Framing(reason) | Error::Unavailable(reason) | Error::NotReady(reason) => {
                Some(*reason)
            }
            _ => None,
        };
        Refusal { status, result, body, headers: self.headers(), reason }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        match self {
            Error::NoReadToken { is_script } => {
                let basic = "Basic realm=\"mailslot\", charset=\"UTF-8\"";
                let basic = (!is_script).then(|| ("WWW-Authenticate", basic.to_owned()));
                let bearer = ("WWW-Authenticate", "Bearer realm=\"mailslot\"".to_owned());
                basic.into_iter().chain([bearer]).collect()
            }
            Error::MethodNotAllowed { allow } => vec![("Allow", allow.clone())],
            Error::TooMany | Error::Unavailable(_) | Error::NotReady(_) => {
                vec![("Retry-After", "1".to_owned())]
            }
            _ => Vec::new(),
        }
    }

    /// The `message_id` of an invalid message, where it could be read.
    pub(crate) fn message_id(&self) -> Option<&str> {
        match self {
            Error::Invalid { message_id, .. } => message_id.as_deref(),
            _ => None,
        }
    }
}

const NO_READ_TOKEN: &str =
    "reading needs a token: Authorization: Bearer, or Basic with it as the password";
const CURSOR_AHEAD: &str = "the cursor is ahead of this database, which was restored or replaced: \
    start again without a cursor";
const FOREIGN_HOST: &str = "this server has no read token, and so does not let clients read under \
                            this host name: use its IP address or localhost, add the name to \
                            HOSTS, or set READ_TOKEN";
