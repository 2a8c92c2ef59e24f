//! One client of the supervisor's socket: requests in, answers out, a line each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde_json::{Value, json};

use super::evidence;
use super::house::{House, HouseError};
use super::protocol::{Asker, REQUEST_BYTES_MAX, Reply, Request};
use super::snapshot::{self, Diff};
use super::{clone, launch, migrate, pool, saved, snapshots};

/// What of a VMM's log is sent; it is the end that one wants to see.
const LOG_TAIL_BYTES_MAX: usize = 64 * 1024;

/// What the connection is after a request was served.
enum After {
    Answer(Value),
    Closed,
}

/// Serves one connection to its end; `down` is called once when the client asks for it.
pub fn serve(house: &Arc<House>, socket: UnixStream, asker: Asker, down: &dyn Fn()) -> io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = Read::take(&mut reader, REQUEST_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let reply = match serde_json::from_slice::<Request>(&line) {
            Err(error) => Reply::Error { error: format!("the request is not understood: {error}"), code: 2 },
            Ok(request) => match (request.allowed(asker), request) {
                (Err(why), _) => Reply::Error { error: why.to_owned(), code: 1 },
                (Ok(()), Request::Down) => {
                    down();
                    Reply::Ok { ok: json!({}) }
                }
                (Ok(()), request) => match answer(house, request, &socket) {
                    Ok(After::Answer(ok)) => Reply::Ok { ok },
                    Ok(After::Closed) => return Ok(()),
                    Err(error) => Reply::Error { error: events::sentence(&error), code: code(&error) },
                },
            },
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        (&socket).write_all(text.as_bytes())?;
    }
}

fn answer(house: &Arc<House>, request: Request, socket: &UnixStream) -> Result<After, HouseError> {
    let answer = match request {
        Request::List { name: None } => {
            json!(house.domains().iter().map(|domain| domain.row()).collect::<Vec<_>>())
        }
        Request::List { name: Some(name) } => json!([house.domain(&name)?.row()]),
        Request::Create(create) => house.create(create)?,
        Request::Pause { name } => house.pause(&*house.domain(&name)?)?,
        Request::Unpause { name } => house.unpause(&*house.domain(&name)?)?,
        Request::Shutdown { name } => house.ask(&*house.domain(&name)?, "shutdown")?,
        Request::Reboot { name } => house.ask(&*house.domain(&name)?, "reboot")?,
        Request::XenstoreLs { name } => house.ask(&*house.domain(&name)?, "xenstore-ls")?,
        Request::VcpuSet { name, vcpus } => house.set_vcpus(&*house.domain(&name)?, vcpus)?,
        Request::VcpuList { name: Some(name) } => json!(house.vcpu_rows(&*house.domain(&name)?)?),
        // A domain that is on its way out does not answer, and has none any more.
        Request::VcpuList { name: None } => {
            json!(
                house
                    .domains()
                    .iter()
                    .flat_map(|domain| house.vcpu_rows(domain))
                    .flatten()
                    .collect::<Vec<_>>()
            )
        }
        Request::DomainInfo { name } => house.ask(&*house.domain(&name)?, "info")?,
        Request::Destroy { name } => {
            house.destroy(&house.domain(&name)?)?;
            json!({})
        }
        Request::Info => info(house),
        Request::Dmesg { name: None } => json!(house.announcer.lines()),
        Request::Dmesg { name: Some(name) } => vmm_lines(house, &house.domain(&name)?.file.name),
        Request::Console { name } => {
            let domain = house.domain(&name)?;
            domain.console.attach(socket)?;
            return Ok(After::Closed);
        }
        Request::Observe { name, question } => {
            let domain = house.domain(&name)?;
            domain.observer.ask(&question, socket).map_err(|source| HouseError::Observer { name, source })?;
            return Ok(After::Closed);
        }
        Request::Pull { name, reason } => evidence::pull(house, &*house.domain(&name)?, reason)?,
        Request::Snapshot { name, diff, reason } => {
            let diff = if diff { Diff::IfPossible } else { Diff::No };
            snapshot::take(house, &*house.domain(&name)?, diff, reason)?
        }
        Request::DumpCore { name, file } => evidence::dump_core(house, &*house.domain(&name)?, &file)?,
        Request::Save { name, folder } => saved::save(house, &house.domain(&name)?, &folder)?,
        Request::Restore { folder, name, paused, verify } => {
            saved::restore(house, &folder, name, paused, verify)?
        }
        Request::Snapshots => snapshots::list(house)?,
        Request::SnapshotDiff { before, after } => snapshots::diff(house, &before, &after)?,
        Request::SnapshotVerify { id } => snapshots::verify(house, &id)?,
        Request::SnapshotPull { id, reason } => snapshots::pull(house, &id, reason)?,
        Request::SnapshotRestore { id, name } => snapshots::restore_as_clone(house, &id, name)?,
        Request::Migrate { name, to } => migrate::migrate(house, &house.domain(&name)?, &to, socket)?,
        Request::Clone(request) => clone::clone(house, &request)?,
        Request::PoolOpen(request) => pool::open(house, &request)?,
        Request::Pools => house.pools.rows(),
        Request::FimBaseline { name } => evidence::baseline(house, &*house.domain(&name)?)?,
        Request::FimCheck { name } => evidence::check(house, &*house.domain(&name)?)?,
        Request::Net => house.network.stats()?,
        // Served before this is asked; the connection ends there.
        Request::Down => json!({}),
    };
    Ok(After::Answer(answer))
}

fn info(house: &House) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "state": house.state.root(),
        "services": house.services.rows(),
        "dashboard": house.dashboard_url,
        "domains": house.domains().len(),
        "memory_available_mib": super::resources::available_bytes().map(|bytes| bytes >> 20),
    })
}

fn vmm_lines(house: &House, name: &str) -> Value {
    let bytes = std::fs::read(launch::vmm_log(&house.state, name)).unwrap_or_default();
    let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES_MAX)..];
    json!(String::from_utf8_lossy(tail).lines().collect::<Vec<_>>())
}

fn code(error: &HouseError) -> u8 {
    match error {
        HouseError::NoDomain { .. } => 3,
        _ => 1,
    }
}
