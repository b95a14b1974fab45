//! The HTTP/JSON API on the unix socket: routes, and errors as JSON. It asks the controller and knows nothing itself.
//!
//! What a local user can do who may not change things: connect, where the mode of the socket lets him (see [`access`]),
//! and be refused. He takes places of [`socket::LIMITS`] from himself and his like only, and none from who may change
//! things ([`socket::Socket`], [`crate::server`]); what he is refused is logged once in a while and not each time. To
//! know who he is may take the network: few are looked up at a time ([`LOOKED_UP`]), for each user fewer, of who may
//! change things apart from others, and root never, so that root waits for no directory. Who may only read can have a
//! few answers made at a time ([`reading`]), of which [`answer`] bounds those that are large; nothing that others ask
//! who may do more waits for them. A body may have [`BODY`] bytes, and must be there within [`PATIENCE`].

pub mod access;
mod answer;
mod failure;
mod listing;
pub mod peer;
mod reading;
pub mod socket;
mod turns;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{
        Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use hyper::body::Body as _;
use serde::Deserialize;

pub use self::failure::kind;
use self::{
    access::Access,
    answer::Answers,
    failure::ApiError,
    peer::Peer,
    reading::{Reading, Reads},
    socket::Socket,
    turns::{ByClass, Turns},
};
use crate::{
    api::{
        flows::FlowQuery,
        types::{Applied, Apply, Backend, ErrorBody, ErrorKind},
    },
    controller::{Error, Handle, Origin, View},
    model::Operate,
    server::{self, show},
    source::file::edit::Edit,
};

/// Largest body of a request, in bytes: a VIP with some ten thousand backends.
const BODY: usize = 1 << 20;

/// How long the body of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests of others than root whose users and groups are looked up at a time, and of one user; of who may change
/// things, and as many of others. Each takes a thread of those that changes use too.
const LOOKED_UP: (usize, usize) = (8, 2);

/// How often refusals are logged.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Answers on `socket`, and keeps it, until this is dropped.
pub async fn serve(socket: Arc<Socket>, controller: Handle) -> Infallible {
    let router = router(controller.clone(), Arc::clone(&socket));
    tokio::select! {
        never = server::serve(Arc::clone(&socket), router, socket::LIMITS) => never,
        never = socket.keep(controller) => never,
    }
}

/// The routes of the API on `socket`. Requests carry their [`Peer`] as an extension.
fn router(controller: Handle, socket: Arc<Socket>) -> Router {
    let guard = Arc::new(Guard::new(controller.clone(), socket));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stats", get(stats))
        .route("/v1/vips", get(vips))
        .route("/v1/vips/{name}", get(vip))
        .route("/v1/backends", get(backends))
        .route("/v1/interfaces", get(interfaces))
        .route("/v1/flows", get(flows))
        .route("/v1/flows/counts", get(flow_counts))
        .route("/v1/diff", get(diff))
        .route("/v1/apply", post(apply))
        .route("/v1/edit", post(edit))
        .route("/v1/operate", post(operate))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::<Answers>::default(), answer::bounded))
        .layer(middleware::from_fn_with_state(guard, judged))
        .with_state(Reads::of(controller))
}

/// Judges who may do what.
struct Guard {
    controller: Handle,
    socket: Arc<Socket>,
    look_ups: ByClass,
    refusals: Mutex<Refusals>,
}

/// Refusals since one was logged.
#[derive(Default)]
struct Refusals {
    reported: Option<Instant>,
    untold: u64,
}

impl Guard {
    fn new(controller: Handle, socket: Arc<Socket>) -> Self {
        Self { controller, socket, look_ups: ByClass::new(LOOKED_UP), refusals: Mutex::default() }
    }

    /// The turns at look-ups that `peer` has to wait for. What he may do is not known yet, but by numbers.
    fn look_ups(&self, peer: &Peer) -> &Turns {
        self.look_ups.of(self.socket.class(peer))
    }

    /// Logs that somebody was refused, unless that was done a moment ago.
    fn report(&self, origin: &Origin, what: &str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.reported.is_some_and(|reported| reported.elapsed() < REPORT_EVERY) {
            refusals.untold += 1;
            return;
        }
        let before = match std::mem::take(&mut refusals.untold) {
            0 => String::new(),
            untold => format!("; {untold} more were refused before"),
        };
        refusals.reported = Some(Instant::now());
        log::warn!("{what} by {origin} refused: not permitted{before}");
    }

    /// What somebody may do, and who they are, if they may ask for this.
    async fn admit(self: Arc<Self>, peer: Peer, method: Method, uri: Uri) -> Result<(Access, Origin), ApiError> {
        if peer.uid.is_root() {
            // Nobody is asked about root, so that this waits for nothing.
            return self.judge(&peer, &method, &uri);
        }
        let turn = self.look_ups(&peer).take(peer.uid).await;
        let judged = tokio::task::spawn_blocking(move || {
            // With the look-up, which goes on when whoever asked has gone.
            let _turn = turn;
            self.judge(&peer, &method, &uri)
        });
        judged.await.map_err(|_| Error::Stopped)?
    }

    /// The same. Looks users and groups up, unless it is root.
    fn judge(&self, peer: &Peer, method: &Method, uri: &Uri) -> Result<(Access, Origin), ApiError> {
        let readers = self.controller.readers()?;
        let (has, needs) =
            (Access::of(peer, &readers), if method == Method::GET { Access::Read } else { Access::Change });
        let origin = peer.origin(&self.socket.path().display().to_string());
        if has >= needs {
            return Ok((has, origin));
        }
        self.report(&origin, &format!("{method} {}", uri.path()));
        let error = access::refusal(&peer.user(), has, &readers);
        Err(ApiError { status: StatusCode::FORBIDDEN, body: ErrorBody { error, kind: ErrorKind::Forbidden } })
    }
}

/// Lets through what the peer may ask for, with a whole body, and with its [`Access`] and [`Origin`] as extensions.
async fn judged(
    State(guard): State<Arc<Guard>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (access, origin) = guard.admit(peer, request.method().clone(), request.uri().clone()).await?;
    let (mut head, body) = request.into_parts();
    head.extensions.insert(access);
    head.extensions.insert(origin);
    let unread = ApiError::invalid;
    let too_large = || {
        let error = format!("the body of the request has more than {BODY} bytes, or broke off");
        unread(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    if body.size_hint().lower() > BODY as u64 {
        return Err(too_large());
    }
    let body = match tokio::time::timeout(PATIENCE, to_bytes(body, BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => {
            let error = format!("the body of the request was not there within {} s", PATIENCE.as_secs());
            return Err(unread(StatusCode::REQUEST_TIMEOUT, error));
        }
    };
    Ok(next.run(Request::from_parts(head, Body::from(body))).await)
}

async fn status(reading: Reading) -> Response {
    reading.read_file(show::status).await
}

async fn stats(reading: Reading) -> Response {
    reading.read(show::stats).await
}

async fn vips(reading: Reading) -> Response {
    reading.read(|view| Ok(show::vips(view))).await
}

async fn vip(reading: Reading, name: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|rejection| ApiError::invalid(rejection.status(), rejection.body_text()))?;
    Ok(reading.read(move |view| show::vip(view, &name)).await)
}

/// What `GET /v1/backends` may be narrowed to.
#[derive(Deserialize)]
struct BackendsOf {
    vip: Option<String>,
}

async fn backends(reading: Reading, of: Result<Query<BackendsOf>, QueryRejection>) -> Result<Response, ApiError> {
    let of = understood(of)?;
    let backends = move |view: &View| {
        let vips = match of.vip {
            Some(name) => vec![show::vip(view, &name)?],
            None => show::vips(view),
        };
        Ok(vips.into_iter().flat_map(|vip| vip.backends).collect::<Vec<Backend>>())
    };
    Ok(reading.read(backends).await)
}

async fn interfaces(reading: Reading) -> Response {
    reading.read(|view| Ok(show::interfaces(view))).await
}

async fn flows(reading: Reading, query: FlowsOf) -> Result<Response, ApiError> {
    let query = limited(understood(query)?)?;
    Ok(reading.walk(|view| listing::flows(view, query)).await)
}

async fn flow_counts(reading: Reading, query: FlowsOf) -> Result<Response, ApiError> {
    let query = understood(query)?;
    Ok(reading.walk(|view| listing::counts(view, query)).await)
}

type FlowsOf = Result<Query<FlowQuery>, QueryRejection>;

fn understood<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(ApiError::invalid(rejection.status(), rejection.body_text())),
    }
}

/// Refuses to list more flows than an answer holds.
fn limited(query: FlowQuery) -> Result<FlowQuery, ApiError> {
    match query.limit {
        Some(limit) if limit > FlowQuery::MAX_LIMIT => {
            let most = FlowQuery::MAX_LIMIT;
            let error = format!("`limit` is {limit}, and at most {most} flows are listed at a time; narrow down which");
            Err(ApiError::invalid(StatusCode::UNPROCESSABLE_ENTITY, error))
        }
        _ => Ok(query),
    }
}

async fn diff(reading: Reading) -> Response {
    reading.read_file(show::diff).await
}

async fn apply(
    State(controller): State<Handle>,
    Extension(origin): Extension<Origin>,
    apply: Result<Option<Json<Apply>>, JsonRejection>,
) -> Result<Json<Applied>, ApiError> {
    let Json(Apply { force }) =
        apply.map_err(|rejection| not_a("what an apply may say", &rejection))?.unwrap_or_default();
    Ok(Json(show::applied(controller.apply(force, origin).await?)))
}

async fn edit(
    State(controller): State<Handle>,
    Extension(origin): Extension<Origin>,
    edit: Result<Json<Edit>, JsonRejection>,
) -> Result<Json<Applied>, ApiError> {
    let Json(edit) = edit.map_err(|rejection| not_a("an edit", &rejection))?;
    Ok(Json(show::applied(controller.edit(edit, origin).await?)))
}

async fn operate(
    State(controller): State<Handle>,
    Extension(origin): Extension<Origin>,
    operate: Result<Json<Operate>, JsonRejection>,
) -> Result<Json<Applied>, ApiError> {
    let Json(operate) = operate.map_err(|rejection| not_a("what can be done to a backend", &rejection))?;
    Ok(Json(show::applied(controller.operate(operate, origin).await?)))
}

fn not_a(what: &str, rejection: &JsonRejection) -> ApiError {
    ApiError::invalid(rejection.status(), format!("this is not {what}: {}", rejection.body_text()))
}

async fn no_such_path(uri: Uri) -> ApiError {
    let error = format!("there is no {} in this version of the API", uri.path());
    ApiError { status: StatusCode::NOT_FOUND, body: ErrorBody { error, kind: ErrorKind::NotFound } }
}

async fn no_such_method(uri: Uri) -> ApiError {
    let error = format!("{} is read with GET; /v1/apply, /v1/edit and /v1/operate are called with POST", uri.path());
    ApiError::invalid(StatusCode::METHOD_NOT_ALLOWED, error)
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::*;

    #[test]
    fn a_limit_that_is_too_high_waits_for_no_turn() {
        let query = |limit| FlowQuery { limit: Some(limit), ..FlowQuery::default() };
        assert!(limited(query(FlowQuery::MAX_LIMIT)).is_ok());
        let error = limited(query(FlowQuery::MAX_LIMIT + 1)).err().unwrap();
        assert_eq!(error.body.kind, ErrorKind::Invalid);
        assert!(error.body.error.contains("at most 100000 flows"), "{}", error.body.error);
    }

    #[tokio::test]
    async fn look_ups_of_who_may_change_things_wait_for_no_strangers() {
        const MEMBERS: u32 = 900;
        let socket = socket::tests::with_group("/nowhere", MEMBERS);
        let guard = Arc::new(Guard::new(Handle::of_nobody(), Arc::new(socket)));
        let peer = |uid, group| Peer { uid: Uid::from_raw(uid), groups: vec![Gid::from_raw(group)], pid: 1 };
        let stranger = |number| peer(4_000_000 + number, 5);
        let busy: Vec<_> =
            (0..20).filter_map(|number| guard.look_ups(&stranger(number)).try_take(Uid::from_raw(number))).collect();
        assert!(busy.len() < 20, "strangers have turns without end");
        let admitted = async |peer, patience| {
            let admit = Arc::clone(&guard).admit(peer, Method::GET, Uri::from_static("/v1/status"));
            tokio::time::timeout(patience, admit).await
        };
        assert!(admitted(stranger(30), Duration::from_millis(20)).await.is_err(), "there was a turn left");
        let answer = admitted(peer(4_000_031, MEMBERS), Duration::from_secs(30)).await;
        let answer = answer.expect("a member of the group waits for no stranger");
        // It is that there is no controller.
        assert_eq!(answer.err().unwrap().body.kind, ErrorKind::Failed);
    }
}
