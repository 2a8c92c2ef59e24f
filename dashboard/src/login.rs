//! Login and logout. The login works without scripts: a form, and a cookie back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use events::{Event, EventId};
use jiff::Timestamp;
use serde::Deserialize;

use crate::answer::Refusal;
use crate::app::App;
use crate::auth::Who;
use crate::guard;
use crate::pages::{self, Page};
use crate::session;

/// Longest password that is tried, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Passwords that are hashed at one time: each takes argon2's 19 MiB and some 50 ms of a processor.
pub const HASHING_MAX: usize = 2;
/// There is one user.
const USER: &str = "operator";

/// The login's form.
#[derive(Deserialize)]
pub struct LoginForm {
    password: String,
    #[serde(default)]
    next: String,
}

/// What came of a try.
enum Tried {
    Right,
    Wrong,
    Early { seconds: u64 },
}

/// `GET /login`
pub async fn page(uri: Uri) -> Response {
    let query = uri.query().unwrap_or_default();
    let next = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "next");
    let next = next.map(|(_, path)| path).unwrap_or_default();
    pages::login(place(&next), "").into_response()
}

/// `POST /login`
pub async fn login(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<SocketAddr>,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Result<Response, Refusal> {
    let Form(form) = form.map_err(|_| Refusal::Value("the form has no password, or one too long"))?;
    let next = place(&form.next);
    match try_password(&app, peer.ip(), form.password).await? {
        Tried::Right => {
            tell(&app, peer.ip(), "success");
            let token = app.sessions().begin(Instant::now());
            let token = token.map_err(|_| Refusal::Away("there are no random bytes for a session"))?;
            let cookie = HeaderValue::try_from(session::set_cookie(&token, app.scheme));
            let cookie = cookie.map_err(|_| Refusal::Value("the session has no cookie"))?;
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response())
        }
        Tried::Wrong => {
            tell(&app, peer.ip(), "failure");
            let page = pages::login(next, "That is not the password.");
            Ok((StatusCode::UNAUTHORIZED, page).into_response())
        }
        Tried::Early { seconds } => {
            let retry = [(header::RETRY_AFTER, HeaderValue::from(seconds))];
            let page = pages::login(next, &format!("Too many tries. Wait {seconds} seconds."));
            Ok((StatusCode::TOO_MANY_REQUESTS, retry, page).into_response())
        }
    }
}

/// Where a login leads: a page of ours, or the first one.
fn place(next: &str) -> &str {
    if pages::is_page(next) { next } else { Page::Overview.path() }
}

/// `POST /api/logout`
pub async fn logout(State(app): State<Arc<App>>, Extension(who): Extension<Who>) -> Response {
    if let Who::Session(key) = who {
        app.sessions().end(&key);
    }
    let cookie = session::set_cookie("", app.scheme);
    ([(header::SET_COOKIE, cookie)], StatusCode::NO_CONTENT).into_response()
}

async fn try_password(app: &Arc<App>, address: IpAddr, password: String) -> Result<Tried, Refusal> {
    if let Err(wait) = app.throttle().take(address, Instant::now()) {
        return Ok(Tried::Early { seconds: wait.0.as_secs() + 1 });
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Ok(Tried::Wrong);
    }
    let busy = Refusal::Busy("too many logins at once: try again");
    let permit = Arc::clone(&app.hashing).try_acquire_owned().map_err(|_| busy)?;
    let owned = Arc::clone(app);
    let hashed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        is_right(&owned.password_hash, &password)
    });
    let right = hashed.await.map_err(|_| Refusal::Away("the password cannot be tried just now"))?;
    if right {
        app.throttle().forgive(address, Instant::now());
    }
    Ok(if right { Tried::Right } else { Tried::Wrong })
}

fn is_right(hash: &str, password: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}

fn tell(app: &App, address: IpAddr, outcome: &str) {
    let event = Event::new(EventId::DashboardLogin, Timestamp::now()).with("user", USER);
    let event = event.with("success", outcome == "success").with("address", guard::canonical(address));
    let severity = if outcome == "success" { events::Severity::Notice } else { events::Severity::Warning };
    app.emitter.emit(event.severity(severity));
}
