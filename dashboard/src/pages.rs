//! The pages' shells. They hold no word that came from outside: a page's script asks the API and writes what it gets as text.

use axum::Extension;
use axum::response::{Html, IntoResponse, Response};

use crate::guard::NeedsWasm;
use crate::intruder::SessionId;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Domains, services, latest alerts.
    Overview,
    /// Sessions of intruders.
    Sessions,
    /// Alerts as they come.
    Alerts,
    /// Logins on decoys.
    Logins,
    /// The decoys' own logs.
    Logs,
    /// File integrity.
    Files,
    /// Snapshots of domains.
    Snapshots,
    /// Pools of clones.
    Pools,
    /// Cases.
    Evidence,
    /// Every event.
    Events,
}

impl Page {
    /// All, in the order of the menu.
    pub const ALL: [Page; 10] = [
        Page::Overview,
        Page::Sessions,
        Page::Alerts,
        Page::Logins,
        Page::Logs,
        Page::Files,
        Page::Snapshots,
        Page::Pools,
        Page::Evidence,
        Page::Events,
    ];

    /// The page at this path.
    pub fn at(path: &str) -> Option<Page> {
        Page::ALL.into_iter().find(|page| page.path() == path)
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Page::Overview => "/",
            Page::Sessions => "/sessions",
            Page::Alerts => "/alerts",
            Page::Logins => "/logins",
            Page::Logs => "/logs",
            Page::Files => "/files",
            Page::Snapshots => "/snapshots",
            Page::Pools => "/pools",
            Page::Evidence => "/evidence",
            Page::Events => "/events",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Page::Overview => "Overview",
            Page::Sessions => "Sessions",
            Page::Alerts => "Alerts",
            Page::Logins => "Logins",
            Page::Logs => "Guest logs",
            Page::Files => "File changes",
            Page::Snapshots => "Snapshots",
            Page::Pools => "Pools",
            Page::Evidence => "Evidence",
            Page::Events => "Events",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Page::Overview => "overview",
            Page::Sessions => "sessions",
            Page::Alerts => "alerts",
            Page::Logins => "logins",
            Page::Logs => "logs",
            Page::Files => "files",
            Page::Snapshots => "snapshots",
            Page::Pools => "pools",
            Page::Evidence => "evidence",
            Page::Events => "events",
        }
    }
}

const HEAD: &str = r#"<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/assets/style.css">"#;

/// What plays casts. The player is a classic script: it runs before the module that uses it, as deferred ones run in their order.
const PLAYER: &str = r#"<link rel="stylesheet" href="/assets/asciinema-player.css">
<script defer src="/assets/asciinema-player.min.js"></script>
"#;

/// Whether this path is a page's, so that a login may lead there.
pub fn is_page(path: &str) -> bool {
    let session = || path.strip_prefix("/sessions/").and_then(SessionId::parse);
    Page::at(path).is_some() || session().is_some()
}

/// The shell of a page.
pub fn shell(page: Page) -> Html<String> {
    document(page, page.title(), page.script(), "")
}

/// The shell of the page of one session.
pub fn session() -> Response {
    (Extension(NeedsWasm), document(Page::Sessions, "Session", "session", PLAYER)).into_response()
}

/// `page` is where it stands in the menu.
fn document(page: Page, title: &str, script: &str, head: &str) -> Html<String> {
    let menu: String = Page::ALL
        .into_iter()
        .map(|entry| {
            let current = if entry == page { r#" aria-current="page""# } else { "" };
            format!("<a href=\"{}\"{current}>{}</a>\n", entry.path(), entry.title())
        })
        .collect();
    Html(format!(
        r##"<!doctype html>
<html lang="en">
<head>
<title>{title} · honeynet</title>
{HEAD}
{head}<script type="module" src="/assets/{script}.js"></script>
</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header class="bar">
<a class="brand" href="/"><img src="/assets/icon.svg" alt="" width="22" height="22">honeynet</a>
<nav aria-label="Pages">
{menu}</nav>
<span id="pulse" class="pulse" role="status"></span>
<button id="logout" class="quiet" type="button">Log out</button>
</header>
<main id="main" tabindex="-1">
<h1>{title}</h1>
<noscript><p class="note">These pages need scripts; the same is to be had as JSON under /api.</p></noscript>
</main>
<div id="notices" aria-live="polite"></div>
</body>
</html>
"##
    ))
}

/// The login. `next` is the path of a page, `sentence` is ours.
pub fn login(next: &str, sentence: &str) -> Html<String> {
    let said = match sentence {
        "" => String::new(),
        sentence => format!("<p class=\"wrong\" role=\"alert\" id=\"wrong\">{sentence}</p>\n"),
    };
    Html(format!(
        r#"<!doctype html>
<html lang="en">
<head>
<title>Log in · honeynet</title>
{HEAD}
</head>
<body class="login">
<main>
<form method="post" action="/login">
<h1><img src="/assets/icon.svg" alt="" width="28" height="28">honeynet</h1>
{said}<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus maxlength="200">
<input type="hidden" name="next" value="{next}">
<button type="submit" class="main">Log in</button>
<p class="hint"><code>honeynet up</code> printed the password when it first ran.</p>
</form>
</main>
</body>
</html>
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_pages_are_gone_back_to() {
        for page in Page::ALL {
            assert!(Page::at(page.path()) == Some(page) && is_page(page.path()));
        }
        assert!(is_page("/sessions/65a1b2c300010001"));
        let other = ["", "//evil.example", "https://evil.example/", "/api/events", "/alerts/", "/\\evil"];
        for path in other.into_iter().chain(["/sessions/", "/sessions/x", "/sessions//evil.example"]) {
            assert!(!is_page(path), "{path}");
        }
    }

    #[test]
    fn a_shell_has_nothing_inline() {
        let session = document(Page::Sessions, "Session", "session", PLAYER);
        for Html(html) in Page::ALL.into_iter().map(shell).chain([session]) {
            let inline = ["<style", " style=", "javascript:", " onclick", " onload", "http:", "https:"];
            assert!(inline.iter().all(|word| !html.contains(word)), "{html}");
            let ours = ["<script type=\"module\" src=\"/assets/", "<script defer src=\"/assets/"];
            let ours: usize = ours.iter().map(|script| html.matches(script).count()).sum();
            assert_eq!(html.matches("<script").count(), ours);
            assert_eq!(html.matches("aria-current").count(), 1);
        }
    }
}
