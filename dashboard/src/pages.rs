//! The pages' shells. They hold no word that came from outside: a page's script asks the API and writes what it gets as text.

use axum::response::Html;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Domains, services, latest alerts.
    Overview,
    /// Alerts as they come.
    Alerts,
    /// Logins on decoys.
    Logins,
    /// The decoys' own logs.
    Logs,
    /// File integrity.
    Files,
    /// Cases.
    Evidence,
    /// Every event.
    Events,
}

impl Page {
    /// All, in the order of the menu.
    pub const ALL: [Page; 7] =
        [Page::Overview, Page::Alerts, Page::Logins, Page::Logs, Page::Files, Page::Evidence, Page::Events];

    /// The page at this path.
    pub fn at(path: &str) -> Option<Page> {
        Page::ALL.into_iter().find(|page| page.path() == path)
    }

    /// Its path.
    pub fn path(self) -> &'static str {
        match self {
            Page::Overview => "/",
            Page::Alerts => "/alerts",
            Page::Logins => "/logins",
            Page::Logs => "/logs",
            Page::Files => "/files",
            Page::Evidence => "/evidence",
            Page::Events => "/events",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Page::Overview => "Overview",
            Page::Alerts => "Alerts",
            Page::Logins => "Logins",
            Page::Logs => "Guest logs",
            Page::Files => "File changes",
            Page::Evidence => "Evidence",
            Page::Events => "Events",
        }
    }

    fn script(self) -> &'static str {
        match self {
            Page::Overview => "overview",
            Page::Alerts => "alerts",
            Page::Logins => "logins",
            Page::Logs => "logs",
            Page::Files => "files",
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

/// The shell of a page.
pub fn shell(page: Page) -> Html<String> {
    let menu: String = Page::ALL
        .into_iter()
        .map(|entry| {
            let current = if entry == page { r#" aria-current="page""# } else { "" };
            format!("<a href=\"{}\"{current}>{}</a>\n", entry.path(), entry.title())
        })
        .collect();
    let (title, script) = (page.title(), page.script());
    Html(format!(
        r##"<!doctype html>
<html lang="en">
<head>
<title>{title} · honeynet</title>
{HEAD}
<script type="module" src="/assets/{script}.js"></script>
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

/// The login. `sentence` is ours.
pub fn login(next: Page, sentence: &str) -> Html<String> {
    let next = next.path();
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
            assert_eq!(Page::at(page.path()), Some(page));
        }
        for path in ["", "//evil.example", "https://evil.example/", "/api/events", "/alerts/", "/\\evil"] {
            assert_eq!(Page::at(path), None, "{path}");
        }
    }

    #[test]
    fn a_shell_has_nothing_inline() {
        for page in Page::ALL {
            let Html(html) = shell(page);
            let inline = ["<style", " style=", "javascript:", " onclick", " onload", "http:", "https:"];
            assert!(inline.iter().all(|word| !html.contains(word)), "{html}");
            assert_eq!(
                html.matches("<script").count(),
                html.matches("<script type=\"module\" src=\"/assets/").count()
            );
            assert_eq!(html.matches("aria-current").count(), 1);
        }
    }
}
