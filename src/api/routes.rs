//! The table of endpoints: everything that the rest of the program must know about each of them.

use super::{
    answer::{Answer, Context, Keys},
    documents, export, feed, health, message, messages, metrics,
    query::Parameter,
    session, stats, webhook,
};
use crate::{
    error::Error,
    http::{
        BODY_BYTES_MAX, Importance,
        Method::{self, Delete, Get, Head, Post},
        Request,
    },
    providers::{Standard, Twilio, WHATSAPP_BODY_BYTES_MAX, Whatsapp},
};

#[derive(Debug)]
pub struct Route {
    pub(crate) method: Method,
    /// A path that ends in a name in braces stands for every path that has anything in its place.
    pub path: &'static str,
    /// Whether the settings have what the endpoint needs; without it there is no such path.
    pub(crate) is_there: fn(&Keys) -> bool,
    pub(crate) body_bytes_max: usize,
    pub(crate) handler: fn(&mut Context, &Request<'_>) -> Result<Answer, Error>,
    pub authorization: Authorization,
    /// Which requests are refused first where there are more than the workers can serve.
    pub(crate) shedding: Importance,
    pub(crate) rate_limit: RateLimit,
    /// Whether responses are counted in `webhook_requests_total` and logged with their result.
    pub(crate) is_delivery: bool,
    pub parameters: &'static [&'static [Parameter]],
}

/// What a request needs besides its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// Nothing. A delivery has a signature, which its handler checks.
    None,
    /// While no read token is set, a host name that no attacker's DNS can serve. The response is
    /// the same for every reader, so it needs no token.
    Host,
    /// A read token, if one is set. The response holds no message, so any host name will do: a
    /// monitoring system may use whatever it was given.
    Token,
    /// A read token; while none is set, a host name that no attacker's DNS can serve.
    TokenOrHost,
}

/// Whether REQUESTS_PER_SECOND and REQUESTS_PER_SECOND_PER_ADDRESS apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RateLimit {
    Applies,
    /// Not to this machine's own supervisors, which restart what does not answer them.
    ExceptLoopback,
    Exempt,
}

/// The defaults for rows of [`ROUTES`]: an endpoint that reads messages.
const READ: Route = Route {
    method: Get,
    path: "",
    is_there: |_| true,
    body_bytes_max: BODY_BYTES_MAX,
    handler: documents::page,
    authorization: Authorization::TokenOrHost,
    shedding: Importance::Read,
    rate_limit: RateLimit::Applies,
    is_delivery: false,
    parameters: &[],
};

/// The defaults for an endpoint for supervisors and monitoring.
pub(crate) const MONITORING: Route = Route {
    authorization: Authorization::None,
    shedding: Importance::Health,
    rate_limit: RateLimit::Exempt,
    ..READ
};

/// Its handlers look at the token themselves.
const SESSION: Route = Route { authorization: Authorization::None, ..READ };

/// The defaults for an endpoint for deliveries.
const DELIVERY: Route = Route {
    method: Post,
    authorization: Authorization::None,
    shedding: Importance::Delivery,
    is_delivery: true,
    ..READ
};

pub const ROUTES: &[Route] = &[
    Route { path: "/webhook", handler: webhook::receive, ..DELIVERY },
    Route {
        path: "/webhook/whatsapp",
        is_there: webhook::is_set::<Whatsapp>,
        body_bytes_max: WHATSAPP_BODY_BYTES_MAX,
        handler: webhook::receive_from::<Whatsapp>,
        ..DELIVERY
    },
    Route {
        method: Get,
        path: "/webhook/whatsapp",
        is_there: webhook::is_set::<Whatsapp>,
        handler: webhook::confirm,
        is_delivery: false,
        parameters: webhook::PARAMETERS,
        ..DELIVERY
    },
    Route {
        path: "/webhook/twilio",
        is_there: webhook::is_set::<Twilio>,
        handler: webhook::receive_from::<Twilio>,
        ..DELIVERY
    },
    Route {
        path: "/webhook/standard",
        is_there: webhook::is_set::<Standard>,
        handler: webhook::receive_from::<Standard>,
        ..DELIVERY
    },
    Route { path: "/messages", handler: messages::list, parameters: messages::PARAMETERS, ..READ },
    Route { path: "/messages/{message_id}", handler: message::show, ..READ },
    Route { path: "/feed", handler: feed::follow, parameters: feed::PARAMETERS, ..READ },
    Route { path: "/export", handler: export::start, parameters: export::PARAMETERS, ..READ },
    Route { path: "/stats", handler: stats::show, ..READ },
    Route { path: "/stats/series", handler: stats::series, parameters: stats::PARAMETERS, ..READ },
    Route { path: "/health/live", handler: health::live, ..MONITORING },
    Route {
        path: "/health/ready",
        handler: health::ready,
        // It is answered as a delivery would be, so that it says what a delivery would find.
        shedding: Importance::Delivery,
        rate_limit: RateLimit::ExceptLoopback,
        ..MONITORING
    },
    Route {
        path: "/metrics",
        handler: metrics::show,
        authorization: Authorization::Token,
        ..MONITORING
    },
    Route { method: Post, path: "/session", handler: session::sign_in, ..SESSION },
    Route { method: Delete, path: "/session", handler: session::sign_out, ..SESSION },
    Route { path: "/", handler: documents::page, authorization: Authorization::Host, ..READ },
    Route { path: "/docs", handler: documents::docs, authorization: Authorization::Host, ..READ },
    Route { path: "/openapi.json", handler: documents::openapi, ..READ },
];

impl Route {
    /// As in the request line.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }
}

/// HEAD works where GET does.
pub(crate) fn find(method: &Method, path: &str, keys: &Keys) -> Result<&'static Route, Error> {
    let asked = if *method == Head { &Get } else { method };
    let here = || at(path).filter(|route| (route.is_there)(keys));
    match here().find(|route| route.method == *asked) {
        Some(route) => Ok(route),
        None if here().next().is_none() => Err(Error::NotFound),
        None => {
            let allow = here().map(|route| match &route.method {
                Get => "GET, HEAD",
                other => other.as_str(),
            });
            Err(Error::MethodNotAllowed { allow: allow.collect::<Vec<_>>().join(", ") })
        }
    }
}

/// Whether a provider's secret is set, so that messages may come by another route than /webhook.
pub(crate) fn has_providers(keys: &Keys) -> bool {
    let mut routes = ROUTES.iter();
    routes.any(|route| route.is_delivery && route.path != "/webhook" && (route.is_there)(keys))
}

/// The routes at a path, whatever the settings are.
fn at(path: &str) -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(move |route| match route.path.split_once('{') {
        Some((start, _)) => path.strip_prefix(start).is_some_and(|rest| !rest.is_empty()),
        None => route.path == path,
    })
}

/// Bytes of a body that is read for this request.
pub(crate) fn body_bytes_max(method: &Method, path: &str) -> usize {
    let route = at(path).find(|route| route.method == *method);
    route.map_or(BODY_BYTES_MAX, |route| route.body_bytes_max)
}

pub(crate) fn is_delivery(method: &Method, path: &str) -> bool {
    at(path).any(|route| route.method == *method && route.is_delivery)
}

/// The path of the route that a path belongs to; any other path as it is.
pub(crate) fn route_path(path: &str) -> &str {
    at(path).next().map_or(path, |route| route.path)
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write, sync::Arc};

    use super::*;
    use crate::{
        api::answer::{Answer, Context, Keys},
        config::{Config, Database},
        http::{Request, path_and_query},
        metrics::Metrics,
        providers::{standard, twilio, whatsapp},
        store::{Job, Store},
    };

    /// Numbers that are the same in every run, by xorshift64.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, end: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 16).unwrap() % end
        }

        fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
            choices[self.below(choices.len())]
        }

        /// Bytes a little different: some replaced, left out, repeated, or pieces of other inputs.
        fn mutate(&mut self, bytes: &mut Vec<u8>) {
            for _ in 0..self.below(4) {
                let at = self.below(bytes.len() + 1);
                let end = at + self.below(bytes.len() - at + 1).min(8);
                match self.below(5) {
                    0 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                    1 => drop(bytes.drain(at..end)),
                    2 => {
                        let again = bytes[at..end].to_vec();
                        bytes.splice(at..at, again.repeat(1 + self.below(3)));
                    }
                    _ => drop(bytes.splice(at..at, self.pick(PIECES).bytes()).collect::<Vec<_>>()),
                }
            }
        }
    }

    #[rustfmt::skip]
    const PIECES: &[&str] = &[
        "", "\0", "\"", "\\", "\\u0000", "\\ud800", "\\udc00", "{", "}", "[", "]", ",", ":", "null",
        "true", "1e999", "-1", "99999999999999999999", "0.1", "+919876543210",
        "2025-01-15T10:00:00Z", "2024-02-29T23:59:60Z", "0001-01-01T00:00:00.000000001Z",
        "9999-12-31T23:59:59.999999999Z", "%", "%2", "%FF", "%00", "&", "=", "?", "+", "limit",
        "offset", "since", "from=", "q=", "limit=0", "limit=100", "offset=-1",
        "offset=9223372036854775807", "message_id", "text", "\u{202e}", "\u{df}", "\u{1f600}",
        "\u{fffd}", "://", "http://", "//", "/../", " ", "\t", "\r\n",
    ];
    const TARGETS: &[&str] = &[
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook",
        "/webhook/whatsapp",
        "/webhook/whatsapp",
        "/webhook/whatsapp?hub.mode=subscribe&hub.verify_token=token&hub.challenge=1158201444",
        "/webhook/twilio",
        "/webhook/twilio?bodySHA256=44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "/webhook/standard",
        "/messages/m1",
        "/messages/wamid.HB%3D%3D",
        "/messages",
        "/stats",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/nope",
        "*",
        "",
        "/messages?limit=2&offset=1",
        "/messages?from=%2B919876543210&since=2025-01-15T10:00:00.1Z&q=hel",
        "http://x/messages?q=%C3%A9cole",
        "/stats?x",
        "/stats/series?bucket=hour&since=2025-01-15T09:30:00Z&until=2025-01-15T11:00:00.5Z",
        "/messages?to=%2B14155550100&until=2025-01-15T10:00:00.1Z&order=desc&cursor=612031203520206d31",
        "/feed?after=3&limit=10&wait=1",
        "/feed?after=latest",
        "/export?format=csv&from=%2B919876543210",
        "/docs",
        "/",
    ];
    const BODIES: &[&str] = &[
        r#"{"message_id":"m1","from":"+919876543210","to":"+14155550100","ts":"2025-01-15T10:00:00Z","text":"Hello"}"#,
        r#"{"message_id":"\u00e9","from":"+1","to":"+2","ts":"2025-01-15T10:00:00.5Z","text":null,"more":[1,{"a":2}]}"#,
        "[]",
        "null",
        "\"\"",
        "",
        "{}",
        r#"{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":{"metadata":{"display_phone_number":"15550783881"},"contacts":[{"user_id":"US.1"}],"messages":[{"from":"16505551234","id":"wamid.A","timestamp":"1749416383","type":"text","text":{"body":"Hi"}},{"id":"wamid.B","timestamp":"1749416383","type":"image","image":{"caption":"Hi"}}],"statuses":[{"status":"read"}]}}]}]}"#,
        "MessageSid=SM1&From=whatsapp%3A%2B14158675309&To=12345&Body=Hello+there&NumMedia=0&x=1&x=",
        r#"{"type":"message","timestamp":"2026-11-25T10:00:00Z","data":{"from":"+1","to":"+2","text":"Hi"}}"#,
    ];

    const INPUTS: usize = 1_000_000;
    const SEEDS: [u64; 4] = [0x9E37_79B9_7F4A_7C15, 2, 3, 4];

    #[test]
    fn of_a_million_inputs_none_panics_or_is_answered_with_a_fault_of_ours() {
        std::thread::scope(|scope| {
            for seed in SEEDS {
                scope.spawn(move || answer_mutations(Numbers(seed), INPUTS / SEEDS.len()));
            }
        });
    }

    /// The headers with which each provider signs.
    fn signed(config: &Config, target: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let url = format!("https://example.com{target}");
        let secrets = &config.standard_webhooks_secrets;
        let mut headers = standard::sign(secrets, "msg_1", 1_700_000_000, body).to_vec();
        headers.push(whatsapp::sign(&config.whatsapp_app_secrets, body));
        headers.push(twilio::sign(&config.twilio_auth_tokens, &url, body));
        headers
    }

    fn answer_mutations(mut numbers: Numbers, inputs: usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mailslot.db");
        let config = Config::read_variables(Config::EVERY_ROUTE).unwrap();
        let (store, mut writer) = Store::open(&Database::File(path), 1, true, false).unwrap();
        let mut context = Context {
            keys: Keys::of(&config),
            reader: store.reader().unwrap(),
            metrics: Arc::new(Metrics::new(ROUTES.iter().map(|route| route.path).collect(), 0)),
        };
        let (mut jobs, mut stored) = (Vec::<Job>::new(), 0);
        for input in 0..inputs {
            let mut target = numbers.pick(TARGETS).as_bytes().to_vec();
            let mut body = numbers.pick(BODIES).as_bytes().to_vec();
            if numbers.below(2) == 0 {
                numbers.mutate(&mut target);
            }
            if numbers.below(4) > 0 {
                numbers.mutate(&mut body);
            }
            // What tiny_http hands out is ASCII.
            let target: String = target.iter().map(|byte| char::from(byte & 0x7f)).collect();
            let (path, _) = path_and_query(&target);
            let mut headers = vec![("X-Signature", context.keys.verifier.sign(&body))];
            if path.starts_with("/webhook/") {
                headers.extend(signed(&config, &target, &body));
            }
            if numbers.below(8) == 0 {
                for (_, value) in &mut headers {
                    let mut changed = value.clone().into_bytes();
                    numbers.mutate(&mut changed);
                    *value = String::from_utf8_lossy(&changed).into_owned();
                }
            }
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let headers = headers.as_slice();
            let method = numbers.pick(&[&Get, &Post, &Post, &Head]);
            let keys = Arc::clone(&context.keys);
            let answer = find(method, path, &keys).and_then(|route| {
                let request = Request::new(&body, &target, &headers, 1_700_000_000);
                (route.handler)(&mut context, &request)
            });
            let mut described = String::new();
            let _ = write!(
                described,
                "{input}: {method} {target:?} {:?}",
                String::from_utf8_lossy(&body)
            );
            match answer {
                Ok(Answer::Now(response)) => assert_eq!(response.status, 200, "{described}"),
                Ok(Answer::AfterCommit(job, _)) => jobs.push(job),
                Ok(Answer::WhenCommitted(_) | Answer::Export(_)) => {}
                Err(error) => {
                    let status = error.refusal().status;
                    assert!((400..500).contains(&status), "{described}: {error:?}");
                }
            }
            if jobs.len() == 500 {
                let outcomes = writer.commit(jobs.iter());
                assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                stored += jobs.len();
                jobs.clear();
            }
        }
        assert!(stored > inputs / 100, "the inputs are too far from valid ones: {stored}");
    }
}
