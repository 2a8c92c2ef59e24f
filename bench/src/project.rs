//! Where things of the project lie, and programs that are run to their end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

/// The project's folder.
pub fn root() -> PathBuf {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench).to_owned()
}

/// Kernels and images, shared with the tests.
pub fn cache() -> PathBuf {
    root().join("target/decoy-cache")
}

/// Tables, and what is built for the benches alone.
pub fn output() -> anyhow::Result<PathBuf> {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Runs a program to its end, at most so long, and gives back what it printed.
pub fn output_of(program: impl AsRef<Path>, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
    let program = program.as_ref();
    let mut command = Command::new("timeout");
    // Whatever hangs is killed; a bench never waits for ever.
    command.args(["--signal=KILL", &limit.as_secs().to_string()]).arg(program).args(arguments);
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.context("timeout cannot be run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{} {}: {}: {} {}",
        program.display(),
        arguments.join(" "),
        output.status,
        said.trim_end(),
        printed.trim_end()
    );
    Ok(printed)
}
