//! Who asks: a browser with a session's cookie, or a script with the API token. Nothing behind this is served to anybody else.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

use crate::answer::Refusal;
use crate::app::App;
use crate::guard::{self, Scheme};
use crate::pages;
use crate::session::{self, SessionKey};

/// Longest `Authorization` header that is looked at, in bytes.
const AUTHORIZATION_BYTES_MAX: usize = 256;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A browser that logged in.
    Session(SessionKey),
    /// A script with the API token.
    Token,
}

/// Lets in who is logged in; pages lead everybody else to the login, the API says 401.
pub async fn require(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let Some(who) = who(&app, request.headers(), Instant::now()) else {
        let path = request.uri().path();
        return match request.method() == Method::GET && pages::is_page(path) {
            true => Redirect::to(&format!("/login?next={path}")).into_response(),
            false => Refusal::NotLoggedIn.into_response(),
        };
    };
    // A cookie goes along with every request to us; that a page of ours made this one, only our own header says.
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    if changes && who != Who::Token && !guard::has_own_header(request.headers()) {
        return Refusal::OtherOrigin.into_response();
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn who(app: &App, headers: &HeaderMap, now: Instant) -> Option<Who> {
    if let Some(authorization) = headers.get(header::AUTHORIZATION) {
        // Whoever shows a token is judged by it alone.
        let text = authorization.to_str().ok().filter(|text| text.len() <= AUTHORIZATION_BYTES_MAX)?;
        let (scheme, token) = text.split_once(' ')?;
        let right = scheme.eq_ignore_ascii_case("bearer") && app.is_token(token.trim());
        return right.then_some(Who::Token);
    }
    let name = match app.scheme {
        Scheme::Http => session::COOKIE,
        Scheme::Https => session::COOKIE_TLS,
    };
    let mut cookies = headers.get_all(header::COOKIE).iter().filter_map(|header| header.to_str().ok());
    let token = cookies.find_map(|header| session::token_in_cookies(header, name))?;
    app.sessions().touch(token, now).map(Who::Session)
}
