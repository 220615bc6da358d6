//! Every way a request can be refused: its status, its body, its name in the metrics.

use serde::Serialize;
use serde_json::Value;

/// What a client is told instead of what it asked for. Statuses and bodies are those of docs/CONTRACT.md.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Error {
    /// 400: framing that two HTTP parsers could read in two ways.
    Framing(&'static str),
    /// 401, in the same words whatever was wrong with the signature.
    InvalidSignature,
    /// 401 of what is to be read, with the ways in which a token can be shown. A page's own script
    /// asks for the token itself: the browser is not to ask, too.
    NoReadToken { is_script: bool },
    /// 404
    NotFound,
    /// 405, with `Allow`.
    MethodNotAllowed { allow: String },
    /// 409: this database has never given such a cursor.
    CursorAhead,
    /// 413
    TooLarge { limit_bytes: usize },
    /// 421: the request names a host that an outsider's DNS could serve, and no token protects reading.
    ForeignHost,
    /// 422, every problem at once. The id is for the log, where it could be read.
    Invalid { problems: Vec<Problem>, message_id: Option<String> },
    /// 429 with `Retry-After`: more than the operator lets a client, or all of them, ask for.
    TooMany,
    /// 500: a bug or a panic. The log has the cause, the client does not.
    Internal,
    /// 503 with `Retry-After`: the sender's retry will succeed once the trouble is over.
    Unavailable(&'static str),
    /// 503 of /health/ready.
    NotReady(&'static str),
}

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

/// Bytes of JSON that `input` echoes at most.
pub(crate) const INPUT_ECHO_BYTES_MAX: usize = 512;

impl Problem {
    /// `input` is cut to [`INPUT_ECHO_BYTES_MAX`], so that an answer is never as long as an attack.
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
    let cut = text.floor_char_boundary(INPUT_ECHO_BYTES_MAX);
    Value::String(format!("{}…", &text[..cut]))
}

impl Error {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Error::Framing(_) => 400,
            Error::InvalidSignature | Error::NoReadToken { .. } => 401,
            Error::NotFound => 404,
            Error::MethodNotAllowed { .. } => 405,
            Error::CursorAhead => 409,
            Error::TooLarge { .. } => 413,
            Error::ForeignHost => 421,
            Error::Invalid { .. } => 422,
            Error::TooMany => 429,
            Error::Internal => 500,
            Error::Unavailable(_) | Error::NotReady(_) => 503,
        }
    }

    /// JSON, in the members' own order.
    pub(crate) fn body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Detail<T> {
            #[serde(skip_serializing_if = "Option::is_none")]
            status: Option<&'static str>,
            detail: T,
        }
        fn json(status: Option<&'static str>, detail: impl Serialize) -> Vec<u8> {
            serde_json::to_vec(&Detail { status, detail }).unwrap_or_default()
        }
        match self {
            Error::Framing(reason) | Error::Unavailable(reason) => json(None, reason),
            Error::InvalidSignature => json(None, "invalid signature"),
            Error::NoReadToken { .. } => json(
                None,
                "reading needs a token: Authorization: Bearer, or Basic with it as the password",
            ),
            Error::NotFound => json(None, "Not Found"),
            Error::MethodNotAllowed { .. } => json(None, "Method Not Allowed"),
            Error::CursorAhead => json(
                None,
                "the cursor is ahead of this database, which was restored or replaced: start again without a cursor",
            ),
            Error::TooLarge { limit_bytes } => {
                json(None, format!("body larger than {limit_bytes} bytes"))
            }
            Error::ForeignHost => json(
                None,
                "this server has no read token, and so does not let clients read under this host \
                 name: use its IP address or localhost, add the name to HOSTS, or set READ_TOKEN",
            ),
            Error::Invalid { problems, .. } => json(None, problems),
            Error::TooMany => json(None, "too many requests, try again later"),
            Error::Internal => json(None, "Internal Server Error"),
            Error::NotReady(reason) => json(Some("not ready"), reason),
        }
    }

    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
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
}
