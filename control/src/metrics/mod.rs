//! Prometheus metrics, gathered from the workers' plain counters when somebody asks, and health over HTTP.

mod by_policy;
mod by_worker;
mod collect;
mod families;
mod page;
mod reference;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing::get};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

use crate::context::Context;
pub(crate) use reference::markdown;

/// Serves `/metrics` and `/healthz` until the task is dropped.
///
/// # Errors
/// When the listener cannot be used.
pub(crate) async fn serve(listener: TcpListener, ctx: Arc<Context>) -> io::Result<()> {
    let app = router(ctx);
    listener.set_nonblocking(true)?;
    axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await
}

fn router(ctx: Arc<Context>) -> Router {
    let registry = Registry::new();
    let collectors: [Box<dyn Collector>; 2] =
        [Box::new(collect::Gateway::new(ctx.clone())), Box::new(ProcessCollector::for_self())];
    for c in collectors {
        registry.register(c).expect("no two have the same names");
    }
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state((ctx, registry))
}

async fn metrics(State((_, registry)): State<(Arc<Context>, Registry)>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
    }
}

async fn health(State((ctx, _)): State<(Arc<Context>, Registry)>) -> (StatusCode, String) {
    match ctx.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests;
