//! The HTTP/JSON API on the unix socket: routes, and errors as JSON. It asks the controller and knows nothing itself.

pub mod client;
pub mod flows;
pub mod socket;
pub mod types;

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use tokio::net::UnixListener;

use self::{
    flows::{FlowCount, FlowQuery, Flows},
    types::{Applied, Backend, Diff, ErrorBody, ErrorKind, Interface, Stats, Status, Vip},
};
use crate::{
    config::edit::Edit,
    controller::{self, Handle},
};

/// Answers on `listener` until the task is dropped.
pub async fn serve(listener: UnixListener, controller: Handle) -> std::io::Result<()> {
    axum::serve(listener, router(controller)).await
}

/// The routes of the API.
pub fn router(controller: Handle) -> Router {
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
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(controller)
}

type Answer<T> = Result<Json<T>, ApiError>;

async fn status(State(controller): State<Handle>) -> Answer<Status> {
    Ok(Json(controller.status().await?))
}

async fn stats(State(controller): State<Handle>) -> Answer<Stats> {
    Ok(Json(controller.stats().await?))
}

async fn vips(State(controller): State<Handle>) -> Answer<Vec<Vip>> {
    Ok(Json(controller.vips().await?))
}

async fn vip(State(controller): State<Handle>, Path(name): Path<String>) -> Answer<Vip> {
    Ok(Json(controller.vip(name).await?))
}

/// What `GET /v1/backends` may be narrowed to.
#[derive(Deserialize)]
struct BackendsOf {
    vip: Option<String>,
}

async fn backends(State(controller): State<Handle>, Query(of): Query<BackendsOf>) -> Answer<Vec<Backend>> {
    let vips = match of.vip {
        Some(name) => vec![controller.vip(name).await?],
        None => controller.vips().await?,
    };
    Ok(Json(vips.into_iter().flat_map(|vip| vip.backends).collect()))
}

async fn interfaces(State(controller): State<Handle>) -> Answer<Vec<Interface>> {
    Ok(Json(controller.interfaces().await?))
}

async fn flows(State(controller): State<Handle>, query: FlowsOf) -> Answer<Flows> {
    Ok(Json(controller.flows(understood(query)?).await?))
}

async fn flow_counts(State(controller): State<Handle>, query: FlowsOf) -> Answer<Vec<FlowCount>> {
    Ok(Json(controller.flow_counts(understood(query)?).await?))
}

type FlowsOf = Result<Query<FlowQuery>, QueryRejection>;

fn understood(query: FlowsOf) -> Result<FlowQuery, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError {
        status: rejection.status(),
        body: ErrorBody { error: rejection.body_text(), kind: ErrorKind::Invalid },
    })?;
    Ok(query)
}

async fn diff(State(controller): State<Handle>) -> Answer<Diff> {
    Ok(Json(controller.diff().await?))
}

async fn apply(State(controller): State<Handle>) -> Answer<Applied> {
    Ok(Json(controller.apply().await?))
}

async fn edit(State(controller): State<Handle>, edit: Result<Json<Edit>, JsonRejection>) -> Answer<Applied> {
    let Json(edit) = edit.map_err(|rejection| ApiError {
        status: rejection.status(),
        body: ErrorBody { error: format!("this is not an edit: {}", rejection.body_text()), kind: ErrorKind::Invalid },
    })?;
    Ok(Json(controller.edit(edit).await?))
}

async fn no_such_path(uri: Uri) -> ApiError {
    let error = format!("there is no {} in this version of the API", uri.path());
    ApiError { status: StatusCode::NOT_FOUND, body: ErrorBody { error, kind: ErrorKind::NotFound } }
}

async fn no_such_method(uri: Uri) -> ApiError {
    let error = format!("{} is read with GET; /v1/apply and /v1/edit are called with POST", uri.path());
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, body: ErrorBody { error, kind: ErrorKind::Invalid } }
}

/// An answer that is not a success.
struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

impl From<controller::Error> for ApiError {
    fn from(error: controller::Error) -> Self {
        let kind = error.kind();
        let status = match kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Refused => StatusCode::CONFLICT,
            ErrorKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, body: ErrorBody { error: error.to_string(), kind } }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}
