//! Names of nodes: which are valid, what a relative one means, and where a guest may look and write.
//!
//! Xen's `docs/misc/xenstore.txt`: letters, digits and `-/_@`, no empty components, no slash at the end. The lengths are ours, tighter than
//! the protocol's 3072 and 2048.

use super::StoreError;

/// Longest absolute path, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;
/// Most components of a path.
pub const PATH_DEPTH_MAX: usize = 32;

/// Watchable names that are no nodes.
const SPECIAL: [&str; 2] = ["@introduceDomain", "@releaseDomain"];

/// A domain's view of the store.
#[derive(Debug, Clone)]
pub struct Home {
    domid: u32,
    path: String,
}

impl Home {
    /// The view of domain `domid`.
    #[must_use]
    pub fn new(domid: u32) -> Self {
        Self { domid, path: format!("/local/domain/{domid}") }
    }

    /// `/local/domain/<domid>`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The domain's number.
    #[must_use]
    pub fn domid(&self) -> u32 {
        self.domid
    }

    /// Makes a guest's path absolute.
    ///
    /// # Errors
    /// EINVAL.
    pub fn absolute(&self, path: &str) -> Result<String, StoreError> {
        let absolute = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.path) };
        check(&absolute)?;
        Ok(absolute)
    }

    /// As [`Home::absolute`], but also takes the special names.
    ///
    /// # Errors
    /// EINVAL.
    pub fn watchable(&self, path: &str) -> Result<String, StoreError> {
        if SPECIAL.contains(&path) { Ok(path.to_owned()) } else { self.absolute(path) }
    }

    /// The path as a relative watch reports it.
    #[must_use]
    pub fn relative<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(&self.path).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
    }

    /// Whether the guest may write here: below its home.
    #[must_use]
    pub fn may_write(&self, path: &str) -> bool {
        path.strip_prefix(&self.path).is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether the guest may read here: its home, its devices' backends, its `/vm` node.
    #[must_use]
    pub fn may_read(&self, path: &str) -> bool {
        is_at_or_below(path, &self.path)
            || is_at_or_below(path, "/vm")
            || SPECIAL.contains(&path)
            || self.is_own_backend(path)
    }

    /// `/local/domain/0/backend/<kind>/<domid>` and below.
    fn is_own_backend(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix("/local/domain/0/backend/") else { return false };
        rest.split('/').nth(1) == Some(self.domid.to_string().as_str())
    }
}

/// Whether `path` is `ancestor` or below it.
#[must_use]
pub fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    let ancestor = ancestor.strip_suffix('/').unwrap_or(ancestor);
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The node above; `None` for the root.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// Checks an absolute path.
///
/// # Errors
/// EINVAL.
pub fn check(path: &str) -> Result<(), StoreError> {
    if path == "/" {
        return Ok(());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    let fits = path.len() <= PATH_BYTES_MAX && path.split('/').count() <= PATH_DEPTH_MAX + 1;
    let shaped = path.starts_with('/') && !path.ends_with('/') && !path.contains("//");
    if fits && shaped && path.bytes().all(allowed) { Ok(()) } else { Err(StoreError::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_xenstored_refuses_are_refused() {
        let deep = "/a".repeat(PATH_DEPTH_MAX + 1);
        let long = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        for path in
            ["", "a", "//", "/a/", "/a//b", "/a b", "/a\0", "/é", "/a.b", deep.as_str(), long.as_str()]
        {
            assert!(check(path).is_err(), "{path:?}");
        }
        for path in ["/", "/a", "/local/domain/1/device/vbd/51712", "/a-b_c@d"] {
            assert!(check(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn a_guest_reads_its_own_and_writes_only_below_home() {
        let home = Home::new(1);
        for (path, read, write) in [
            ("/local/domain/1", true, false),
            ("/local/domain/1/device", true, true),
            ("/local/domain/12/device", false, false),
            ("/local/domain/0/backend/vbd/1/51712/state", true, false),
            ("/local/domain/0/backend/vbd/12/51712/state", false, false),
            ("/local/domain/0/backend", false, false),
            ("/local/domain/0/name", false, false),
            ("/vm/x/uuid", true, false),
            ("/tool", false, false),
            ("/", false, false),
        ] {
            assert_eq!(home.may_read(path), read, "{path}");
            assert_eq!(home.may_write(path), write, "{path}");
        }
    }

    #[test]
    fn relative_paths_are_below_home_and_come_back_relative() {
        let home = Home::new(7);
        assert_eq!(home.absolute("device/vif").unwrap(), "/local/domain/7/device/vif");
        assert_eq!(home.relative("/local/domain/7/device/vif"), "device/vif");
        assert_eq!(home.relative("/vm/x"), "/vm/x");
        assert!(home.absolute("../8").is_err());
        assert!(home.absolute("").is_err());
        assert!(home.watchable("@releaseDomain").is_ok());
        assert!(home.absolute("@introduceDomain/..").is_err());
    }

    #[test]
    fn parents_end_at_the_root() {
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
        assert!(is_at_or_below("/a/b", "/") && is_at_or_below("/a", "/a") && !is_at_or_below("/ab", "/a"));
    }
}
