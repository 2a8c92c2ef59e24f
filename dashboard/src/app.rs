//! What all requests share, and which path leads where.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use events::Emitter;
use tokio::sync::Semaphore;

use crate::answer::Refusal;
use crate::auth::{self, Who};
use crate::config::Config;
use crate::feed::Feed;
use crate::guard::{self, Scheme};
use crate::intruder::Catalogue;
use crate::jobs::Jobs;
use crate::pages::{self, Page};
use crate::sampler::Sampler;
use crate::session::Sessions;
use crate::store::Reader;
use crate::supervisor::Supervisor;
use crate::throttle::Throttle;
use crate::{actions, assets, cases, intruder, live, login, overview, snapshots};

/// Longest body; the longest that we take is a reason.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// How long a request may take until its answer begins.
const ANSWER: Duration = Duration::from_secs(30);

/// What all requests share.
pub struct App {
    /// How browsers reach us.
    pub scheme: Scheme,
    /// Host names that are ours.
    pub names: Vec<String>,
    /// The password's argon2 hash.
    pub password_hash: String,
    token_hash: Option<blake3::Hash>,
    /// The public key that cases are signed with.
    pub case_key: Option<String>,
    /// The folder of cases.
    pub evidence: PathBuf,
    /// Sessions of intruders.
    pub intruders: Arc<Catalogue>,
    /// The folder of casts.
    pub tty: PathBuf,
    /// The folder of samples.
    pub samples: PathBuf,
    /// The store.
    pub reader: Arc<Reader>,
    /// New events.
    pub feed: Arc<Feed>,
    /// The supervisor.
    pub supervisor: Arc<Supervisor>,
    /// The house as it was a moment ago.
    pub sampler: Arc<Sampler>,
    /// What takes long.
    pub jobs: Arc<Jobs>,
    /// Our own events.
    pub emitter: Emitter,
    /// One permit a page that is fed.
    pub listeners: Arc<Semaphore>,
    /// One permit a download.
    pub downloads: Arc<Semaphore>,
    /// One permit a cast.
    pub casts: Arc<Semaphore>,
    /// One permit a password that is hashed.
    pub hashing: Arc<Semaphore>,
    // Both locked for a look at the table.
    sessions: Mutex<Sessions>,
    throttle: Mutex<Throttle>,
}

impl App {
    /// Nothing runs yet.
    pub fn new(config: &Config, emitter: Emitter) -> App {
        let scheme = if config.tls.is_some() { Scheme::Https } else { Scheme::Http };
        App {
            scheme,
            names: config.names.clone(),
            password_hash: config.password_hash.trim().to_owned(),
            token_hash: config.token_hash.as_ref().and_then(|hash| blake3::Hash::from_hex(hash.trim()).ok()),
            case_key: config.case_key.clone(),
            evidence: config.evidence.clone(),
            intruders: Arc::new(Catalogue::new(config.sessions.clone())),
            tty: config.tty.clone(),
            samples: config.samples.clone(),
            reader: Arc::new(Reader::new(config.store.clone())),
            feed: Arc::new(Feed::new()),
            supervisor: Arc::new(Supervisor::new(config.supervisor.clone())),
            sampler: Arc::default(),
            jobs: Arc::default(),
            emitter,
            listeners: Arc::new(Semaphore::new(live::LISTENERS_MAX)),
            downloads: Arc::new(Semaphore::new(cases::DOWNLOADS_MAX)),
            casts: Arc::new(Semaphore::new(intruder::CASTS_MAX)),
            hashing: Arc::new(Semaphore::new(login::HASHING_MAX)),
            sessions: Mutex::default(),
            throttle: Mutex::new(Throttle::new(Instant::now())),
        }
    }

    /// The sessions.
    pub fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tries of passwords.
    pub fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the API token. Hashes are compared in constant time.
    pub fn is_token(&self, token: &str) -> bool {
        self.token_hash.is_some_and(|hash| hash == blake3::hash(token.as_bytes()))
    }

    /// Whether who once logged in still is.
    pub fn is_logged_in(&self, who: &Who, now: Instant) -> bool {
        match who {
            Who::Token => true,
            Who::Session(key) => self.sessions().is_alive(key, now),
        }
    }
}

/// All paths.
pub fn router(app: Arc<App>) -> Router {
    let mut behind = Router::new();
    for page in Page::ALL {
        behind = behind.route(page.path(), get(async move || pages::shell(page)));
    }
    let behind = behind
        .route("/assets/{name}", get(assets::script))
        .route("/api/overview", get(overview::overview))
        .route("/api/events", get(overview::events))
        .route("/api/events/{id}", get(overview::event))
        .route("/api/counts", get(overview::counts))
        .route("/api/live", get(live::live))
        .route("/api/jobs", get(actions::jobs))
        .route("/api/domains/{name}/pause", post(actions::pause))
        .route("/api/domains/{name}/unpause", post(actions::unpause))
        .route("/api/domains/{name}/pull", post(actions::pull))
        .route("/api/domains/{name}/snapshot", post(snapshots::take))
        .route("/api/snapshots", get(snapshots::list))
        .route("/api/snapshots/diff", post(snapshots::diff))
        .route("/api/snapshots/{domain}/{id}/verify", post(snapshots::verify))
        .route("/api/snapshots/{domain}/{id}/pull", post(snapshots::pull))
        .route("/api/snapshots/{domain}/{id}/restore", post(snapshots::restore))
        .route("/api/pools", get(snapshots::pools))
        .route("/api/domains/{name}/fim-check", post(actions::fim_check))
        .route("/api/cases", get(cases::list))
        .route("/api/cases/{id}", get(cases::one))
        .route("/api/cases/{id}/verify", post(cases::verify))
        .route("/api/cases/{id}/tar", get(cases::tar))
        .route("/sessions/{id}", get(intruder::page))
        .route("/api/sessions", get(intruder::list))
        .route("/api/sessions/{id}", get(intruder::one))
        .route("/api/sessions/{id}/tty/{number}", get(intruder::tty))
        .route("/api/samples/{sha256}", get(intruder::sample))
        .route("/api/logout", post(login::logout))
        .fallback(async || Refusal::Missing("page"))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::require));
    let open = Router::new()
        .route("/login", get(login::page).post(login::login))
        .route("/assets/style.css", get(async |headers: HeaderMap| assets::public("style.css", &headers)))
        .route("/assets/icon.svg", get(async |headers: HeaderMap| assets::public("icon.svg", &headers)));
    behind
        .merge(open)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::check))
        .with_state(app)
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(ANSWER, next.run(request)).await;
    answer.unwrap_or_else(|_| Refusal::Slow.into_response())
}
