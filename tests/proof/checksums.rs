//! One guest, busy all the time, and what is made of it: every file and every page of all of them is as its sum says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use honeyvmm::disk::{Below, View};
use serde_json::Value;

use crate::dice::Dice;
use crate::util::guest::Guest;
use crate::util::hosts::Hosts;
use crate::util::{Honeynet, busy, row_when};

const DISK_BYTES: u64 = 32 << 20;
const PATTERN_MIB: u32 = 32;

/// What is done in a round.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Full,
    Diff,
    Clone,
    Parked,
    /// Written down, gone on, and moved, so that no chain grows.
    Save,
    Migrate,
}

const DEEDS: [Deed; 6] = [Deed::Full, Deed::Diff, Deed::Clone, Deed::Parked, Deed::Save, Deed::Migrate];

struct Run {
    honeynets: [Honeynet; 2],
    // Its namespaces go after the honeynets in them.
    _hosts: Hosts,
    at: usize,
    guest: Option<Guest>,
}

#[test]
fn every_checksum_holds_and_every_file_system_is_clean() {
    let _alone = crate::alone();
    let (mut dice, rounds) = (Dice::new(), crate::rounds(6));
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let image = honeynets[0].path("d.img");
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let keys = "vcpus=2\ndisk=['d.img,,xvda,w']\nhn_layer=1\nvif=['ip=10.77.0.10']";
    let mut guest = Guest::create(&honeynets[0], "a", keys);
    busy::start(&mut guest, PATTERN_MIB);
    honeynets[1].start_supervisor();
    let mut run = Run { honeynets, _hosts: hosts, at: 0, guest: Some(guest) };
    for round in 0..rounds {
        std::thread::sleep(dice.milliseconds(700));
        // Each of them at first, then as it comes.
        let deed = DEEDS.get(round as usize).copied().unwrap_or(DEEDS[dice.below(6) as usize]);
        println!("round {} of {rounds}: {deed:?}", round + 1);
        run.do_this(deed);
        let guest = run.guest.as_mut().unwrap();
        assert_eq!(guest.run("sha256sum -c /m/sum"), "/m/pattern: OK", "round {round}: {deed:?}");
        run.tidy();
    }
    busy::stop_and_check(run.guest.as_mut().unwrap());
}

impl Run {
    fn here(&self) -> &Honeynet {
        &self.honeynets[self.at]
    }

    fn commands(&self) -> u32 {
        self.guest.as_ref().unwrap().commands()
    }

    fn do_this(&mut self, deed: Deed) {
        match deed {
            Deed::Full => self.restore(&[]),
            Deed::Diff => self.restore(&["--diff"]),
            Deed::Clone => self.clone(&[]),
            Deed::Parked => self.clone(&["--parked"]),
            Deed::Save => {
                self.save();
                self.migrate();
                std::fs::remove_dir_all(self.honeynets[1 - self.at].path("saved")).unwrap();
            }
            Deed::Migrate => self.migrate(),
        }
    }

    fn snapshot(&self, more: &[&str]) -> String {
        let words = [&["snapshot", "a", "--json"], more].concat();
        let taken = self.here().run(&words).good().json();
        let id = taken["id"].as_str().unwrap().to_owned();
        self.here().run(&["snapshot-verify", &id]).good();
        let folder = self.here().path(&format!("state/snapshots/a/{id}"));
        check_crashed_disk(&self.here().path("."), &layers_of(&folder), &self.image());
        id
    }

    /// Back to a snapshot: from then on it is that one that is busy.
    fn restore(&mut self, more: &[&str]) {
        let id = self.snapshot(more);
        let guest = self.guest.take().unwrap();
        self.here().run(&["destroy", "a"]).good();
        self.here().run(&["restore", &id]).good();
        self.guest = Some(guest.go_on(self.here(), "a"));
    }

    fn clone(&self, more: &[&str]) {
        let id = self.snapshot(&[]);
        let words = [&["clone", &id, "--name", "r"], more].concat();
        self.here().run(&words).good();
        if !more.is_empty() {
            self.here().run(&["unpause", "r"]).good();
        }
        self.check_other("r");
    }

    /// One that goes on beside the guest has all that it had; it is stopped, and its disk is clean.
    fn check_other(&self, name: &str) {
        let here = self.here();
        let mut other = Guest::take_up(here, name, self.commands());
        busy::stop_and_check(&mut other);
        drop(other);
        let own = here.path(&format!("state/domains/{name}"));
        let mut layers = below(&own);
        layers.push(own.join("xvda.layer"));
        let raw = raw(&here.path("."), &layers, &self.image());
        check_clean(&raw);
        std::fs::remove_file(raw).unwrap();
        here.run(&["destroy", name]).good();
        assert!(row_when(here, name, |row| row.is_none()).is_none());
        let _ = std::fs::remove_dir_all(own);
    }

    fn save(&mut self) {
        let saved = self.here().path("saved");
        let saved = saved.to_str().unwrap();
        self.here().run(&["save", "a", saved]).good();
        self.here().run(&["restore", saved]).good();
        self.guest = Some(self.guest.take().unwrap().go_on(self.here(), "a"));
    }

    fn migrate(&mut self) {
        let to = 1 - self.at;
        let moved = self.here().run(&["migrate", "a", ["a", "b"][to], "--json"]).good().json();
        println!("  stood {} ms", moved["downtime_ms"]);
        let gone = self.here().path("state/domains/a");
        self.at = to;
        self.guest = Some(self.guest.take().unwrap().go_on(self.here(), "a"));
        // What the next one that comes back would put aside.
        let _ = std::fs::remove_file(gone.join("xvda.layer.1"));
    }

    /// All but the newest snapshot go, where nothing needs them.
    fn tidy(&self) {
        for honeynet in &self.honeynets {
            let rows = honeynet.run(&["snapshots", "--json"]).good().json();
            let ids: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["id"]).collect();
            for id in ids.iter().rev().skip(1) {
                honeynet.run(&["snapshot-remove", id.as_str().unwrap()]);
            }
        }
    }

    fn image(&self) -> PathBuf {
        self.honeynets[0].path("d.img")
    }
}

/// The layers of a snapshot's disk and of those that it lies over, the lowest first.
fn layers_of(folder: &Path) -> Vec<PathBuf> {
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    let mut layers = match manifest["parent"]["folder"].as_str() {
        Some(parent) => layers_of(&folder.join(parent)),
        None => Vec::new(),
    };
    let own = manifest["depth"]["xvda"].as_u64().unwrap();
    layers.extend((0..own).map(|number| folder.join(format!("xvda.layer.{number}"))));
    layers
}

fn below(own: &Path) -> Vec<PathBuf> {
    std::fs::read(own.join("xvda.below"))
        .map_or_else(|_| Vec::new(), |text| serde_json::from_slice(&text).unwrap())
}

fn raw(folder: &Path, layers: &[PathBuf], image: &Path) -> PathBuf {
    let layers = layers.iter().map(|path| File::open(path).unwrap()).collect();
    let below = Below::new(File::open(image).unwrap(), layers).unwrap();
    let raw = folder.join("disk.raw");
    std::io::copy(&mut View::new(below, None).unwrap(), &mut File::create(&raw).unwrap()).unwrap();
    raw
}

/// A disk as it was while its file system was written: its journal makes it whole, and then nothing is wrong with it.
fn check_crashed_disk(folder: &Path, layers: &[PathBuf], image: &Path) {
    let raw = raw(folder, layers, image);
    let replayed = Command::new("e2fsck").arg("-p").arg(&raw).output().unwrap();
    assert!(replayed.status.code().is_some_and(|code| code <= 1), "{replayed:?}");
    check_clean(&raw);
    std::fs::remove_file(raw).unwrap();
}

#[track_caller]
fn check_clean(raw: &Path) {
    let checked = Command::new("e2fsck").arg("-fn").arg(raw).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
