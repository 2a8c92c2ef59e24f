//! A recipe: what a decoy machine is, in TOML. Checked whole before anything is built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

/// The largest image, in MiB.
pub const IMAGE_MIB_MAX: u64 = 64 << 10;
/// The smallest image that a Debian base fits in, in MiB.
pub const IMAGE_MIB_MIN: u64 = 400;

/// Why a recipe is refused.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Not TOML, or not a recipe's TOML. The text names line and column.
    #[error("recipe {path}: {detail}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        detail: String,
    },
    /// A value that cannot be built.
    #[error("recipe {recipe}: {key} {value:?} {reason}")]
    Value {
        /// Its name.
        recipe: String,
        /// Which key.
        key: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A decoy machine, as its recipe says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the recipe.
    pub name: String,
    /// Host name in the image; a domain may have another (`systemd.hostname=` on the kernel's command line).
    pub hostname: String,
    /// Debian suite.
    pub suite: String,
    /// Packages beside the base.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Units that start at boot; others that the packages brought stay as the packages want them.
    #[serde(default)]
    pub services: Vec<String>,
    /// Units that never start.
    #[serde(default)]
    pub masked: Vec<String>,
    /// Password of root; none locks the account.
    pub root_password: Option<String>,
    /// Size of the disk, in MiB.
    pub image_mib: u64,
    /// RAM that a domain of this recipe should get, in MiB.
    pub memory_mib: u64,
    /// TCP ports that the machine answers at, the first being the one to wait for.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Kernel settings beside ours.
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    /// Accounts.
    #[serde(default)]
    pub users: Vec<User>,
    /// Files, written last.
    #[serde(default)]
    pub files: Vec<BaitFile>,
}

/// One account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Password in clear: it is there to be guessed.
    pub password: String,
    /// Number, for user and own group.
    pub uid: u32,
    /// Login shell.
    pub shell: String,
    /// Further groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaitFile {
    /// Absolute path in the image.
    pub path: String,
    /// The text; one leading newline is TOML's and is not part of it.
    pub content: Option<String>,
    /// A file beside the recipe that is copied instead.
    pub source: Option<PathBuf>,
    /// Octal mode.
    #[serde(default = "default_mode")]
    pub mode: String,
    /// Owner, with his own group.
    #[serde(default = "default_owner")]
    pub owner: String,
    /// RFC 3339; none is the time of the build.
    pub mtime: Option<String>,
}

fn default_mode() -> String {
    "0644".to_owned()
}

fn default_owner() -> String {
    "root".to_owned()
}

impl Recipe {
    /// Reads and checks a recipe file.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks a recipe's text; `path` is for messages.
    ///
    /// # Errors
    /// [`RecipeError::Syntax`] with line and column, [`RecipeError::Value`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text)
            .map_err(|error| RecipeError::Syntax { path: path.to_owned(), detail: error.to_string() })?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), RecipeError> {
        self.word("name", &self.name, "-")?;
        self.word("hostname", &self.hostname, "-.")?;
        self.word("suite", &self.suite, "-")?;
        for package in &self.packages {
            self.word("packages", package, "-+.")?;
        }
        for service in self.services.iter().chain(&self.masked) {
            self.word("services", service, "-.@_")?;
        }
        for (key, value) in &self.sysctl {
            self.word("sysctl", key, "._-")?;
            self.line("sysctl", value)?;
        }
        if let Some(password) = &self.root_password {
            self.line("root_password", password)?;
        }
        if !(IMAGE_MIB_MIN..=IMAGE_MIB_MAX).contains(&self.image_mib) {
            return self.bad("image_mib", &self.image_mib.to_string(), "is not between 400 and 65536");
        }
        let mut names = BTreeSet::new();
        let mut uids = BTreeSet::new();
        for user in &self.users {
            self.user(user)?;
            if !names.insert(&user.name) || !uids.insert(user.uid) {
                return self.bad("users", &user.name, "has a name or uid that another user has");
            }
        }
        self.files.iter().try_for_each(|file| self.file(file))
    }

    fn user(&self, user: &User) -> Result<(), RecipeError> {
        self.word("users.name", &user.name, "-_")?;
        self.line("users.password", &user.password)?;
        self.word("users.shell", &user.shell, "/-_")?;
        for group in &user.groups {
            self.word("users.groups", group, "-_")?;
        }
        if !(1000..60000).contains(&user.uid) {
            return self.bad("users.uid", &user.uid.to_string(), "is not between 1000 and 59999");
        }
        Ok(())
    }

    fn file(&self, file: &BaitFile) -> Result<(), RecipeError> {
        let climbs = Path::new(&file.path).components().any(|part| part == std::path::Component::ParentDir);
        if !file.path.starts_with('/') || file.path.ends_with('/') || climbs {
            return self.bad("files.path", &file.path, "is not an absolute path of a file");
        }
        if file.content.is_some() == file.source.is_some() {
            return self.bad("files.path", &file.path, "needs either content or source");
        }
        if !u32::from_str_radix(&file.mode, 8).is_ok_and(|mode| mode <= 0o7777) {
            return self.bad("files.mode", &file.mode, "is not an octal mode");
        }
        if let Some(mtime) = &file.mtime {
            self.word("files.mtime", mtime, "-:+.")?;
        }
        self.word("files.owner", &file.owner, "-_")
    }

    /// Letters, digits and a few more: what goes into commands and paths of the build.
    fn word(&self, key: &'static str, value: &str, more: &str) -> Result<(), RecipeError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        if value.is_empty() || value.starts_with('-') || !value.chars().all(fits) {
            return self.bad(key, value, "has characters that may not be there, or none");
        }
        Ok(())
    }

    fn line(&self, key: &'static str, value: &str) -> Result<(), RecipeError> {
        if value.is_empty() || value.chars().any(char::is_control) {
            return self.bad(key, value, "is empty or not one line");
        }
        Ok(())
    }

    fn bad<T>(&self, key: &'static str, value: &str, reason: &'static str) -> Result<T, RecipeError> {
        Err(RecipeError::Value { recipe: self.name.clone(), key, value: value.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'a'\nhostname = 'a'\nsuite = 'bookworm'\nimage_mib = 500\nmemory_mib = 128\n";

    #[test]
    fn recipes_of_the_house_are_valid() {
        for name in ["ssh-server", "web-server"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("recipes/{name}.toml"));
            assert_eq!(Recipe::load(&path).unwrap().name, name);
        }
    }

    #[test]
    fn syntax_error_names_file_line_and_column() {
        let error = Recipe::parse(&format!("{SMALL}colour = 'red'\n"), Path::new("x.toml")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("x.toml") && text.contains("line 6, column 1"), "{text}");
    }

    #[test]
    fn values_that_cannot_be_built_are_refused() {
        for (more, key) in [
            ("packages = ['--purge']", "packages"),
            ("services = ['a b']", "services"),
            ("root_password = \"a\\nb\"", "root_password"),
            ("[[users]]\nname='x:y'\npassword='p'\nuid=1000\nshell='/bin/sh'", "users.name"),
            ("[[users]]\nname='x'\npassword='p'\nuid=0\nshell='/bin/sh'", "users.uid"),
            ("[[files]]\npath='/a/../../etc/x'\ncontent=''", "files.path"),
            ("[[files]]\npath='/a'", "files.path"),
            ("[[files]]\npath='/a'\ncontent=''\nmode='999'", "files.mode"),
        ] {
            let error = Recipe::parse(&format!("{SMALL}{more}\n"), Path::new("x.toml")).unwrap_err();
            assert!(matches!(&error, RecipeError::Value { key: k, .. } if *k == key), "{more}: {error}");
        }
    }
}
