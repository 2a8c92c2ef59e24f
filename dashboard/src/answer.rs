//! Answers that are no success: one sentence as JSON, with the status that fits. What went wrong inside is for the log, not for the
//! browser.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::intruder::ObjectError;
use crate::question::QuestionError;
use crate::supervisor::AskError;

/// Why a request is not served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Neither session nor token.
    #[error("log in first")]
    NotLoggedIn,
    /// A `Host` that is none of ours.
    #[error("this host name is not served: use the address, or name it in [dashboard] names")]
    OtherHost,
    /// A change that another site's page asked for.
    #[error("the request does not come from a page of this dashboard")]
    OtherOrigin,
    /// Nothing is there.
    #[error("there is no such {0}")]
    Missing(&'static str),
    /// A question that is none.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// A value that cannot be.
    #[error("{0}")]
    Value(&'static str),
    /// As much as may be is going on already.
    #[error("{0}")]
    Busy(&'static str),
    /// The store or the evidence cannot be read just now.
    #[error("{0}")]
    Away(&'static str),
    /// The supervisor did not do it.
    #[error(transparent)]
    Supervisor(#[from] AskError),
    /// A session that cannot be told.
    #[error(transparent)]
    Session(#[from] ObjectError),
    /// It takes too long.
    #[error("the answer takes too long: narrow the question, or try again")]
    Slow,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::NotLoggedIn => StatusCode::UNAUTHORIZED,
            Refusal::OtherHost => StatusCode::MISDIRECTED_REQUEST,
            Refusal::OtherOrigin => StatusCode::FORBIDDEN,
            Refusal::Missing(_) => StatusCode::NOT_FOUND,
            Refusal::Session(ObjectError::Missing) => StatusCode::NOT_FOUND,
            Refusal::Session(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::Question(_) | Refusal::Value(_) => StatusCode::BAD_REQUEST,
            Refusal::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Away(_) | Refusal::Slow => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Supervisor(AskError::Refused { code: 3, .. }) => StatusCode::NOT_FOUND,
            Refusal::Supervisor(AskError::Refused { .. }) => StatusCode::CONFLICT,
            Refusal::Supervisor(AskError::Slow { .. }) => StatusCode::GATEWAY_TIMEOUT,
            Refusal::Supervisor(_) => StatusCode::BAD_GATEWAY,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, Json(json!({ "error": self.to_string() }))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"honeynet\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
