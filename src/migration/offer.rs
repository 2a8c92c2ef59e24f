//! What one honeynet tells another of a domain that is to move: JSON, checked by who takes it, for a peer may be another build, or taken over.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

use honeyvmm::blkback::Vdev;
use honeyvmm::machine::DomainState;
use honeyvmm::shim::Backend;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain_file::{self, DEVICES_MAX, DomainFile, MEMORY_MAX_MIB, MEMORY_MIN_MIB, VCPUS_MAX};

/// Of the whole conversation.
pub const VERSION: u32 = 1;
/// Files of one domain: kernel, initramfs, and images.
const FILES_MAX: usize = DEVICES_MAX + 2;
/// Hexadecimal digits of a token.
const TOKEN_DIGITS: usize = 32;

/// A file that the domain needs and that does not come along: kernel, initramfs, image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFile {
    /// Where it lies at the source.
    pub path: PathBuf,
    /// Where below the state directory, if it does.
    pub in_state: Option<PathBuf>,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of what it holds; pages of zeros are left out.
    pub blake3: String,
}

/// How the outside knows a domain whose guest has another MAC and address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outer {
    /// Its MAC.
    pub mac: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A domain that is to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// [`VERSION`].
    pub version: u32,
    /// The build that offers it.
    pub build: String,
    /// Names this migration: random, hexadecimal.
    pub token: String,
    /// What it was built from.
    pub domain: DomainFile,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// How the outside knows it, if otherwise than its guest does.
    pub outer: Option<Outer>,
    /// How KVM runs it.
    pub backend: Backend,
    /// Which shim lies in its memory.
    pub shim: String,
    /// The processor's features, as the guest has seen them: `honeyvmm::cpuid::features`.
    pub features: Vec<u32>,
    /// Its kernel.
    pub kernel: HostFile,
    /// Its initramfs, for a start anew.
    pub ramdisk: Option<HostFile>,
    /// Its images, in the order of its disks.
    pub images: Vec<HostFile>,
}

/// What there is of a domain beside RAM, layers and the shim's memory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rest {
    /// The machine.
    pub state: DomainState,
    /// It had stood so long when this was sent, in nanoseconds.
    pub stood_ns: u64,
    /// It was paused before, and stays so.
    pub paused: bool,
    /// What the switch knows of its connections: answers of netwatch's `flows-of`.
    pub flows: Vec<Value>,
}

/// What the other side says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Ok(Value),
    /// It was not, for this reason.
    Error(String),
}

/// What became of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The domain runs, or ran, at the peer.
    Came,
    /// It never will.
    Refused,
}

/// Why an offer is no offer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Another form.
    #[error("honeynet {build} speaks version {version} of migration, this one speaks {VERSION}")]
    Version {
        /// Its form.
        version: u32,
        /// Whose.
        build: String,
    },
    /// A value that cannot be.
    #[error("the offered domain's {what} cannot be")]
    Value {
        /// Of what.
        what: &'static str,
    },
}

impl Offer {
    /// Whether it can be one at all; whether it can be met is another matter.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn check(&self) -> Result<(), OfferError> {
        if self.version != VERSION {
            return Err(OfferError::Version { version: self.version, build: self.build.clone() });
        }
        let file = &self.domain;
        let vdevs: BTreeSet<&str> = file.disks.iter().map(|disk| disk.vdev.as_str()).collect();
        let files = [Some(&self.kernel), self.ramdisk.as_ref()].into_iter().flatten().chain(&self.images);
        for (right, what) in [
            (is_token(&self.token), "token"),
            (domain_file::is_name(&file.name), "name"),
            ((MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&file.memory_mib), "memory"),
            (1 <= file.vcpus && file.vcpus <= file.maxvcpus && file.maxvcpus <= VCPUS_MAX, "number of vcpus"),
            (file.disks.len() <= DEVICES_MAX && file.vifs.len() <= DEVICES_MAX, "number of devices"),
            (vdevs.len() == file.disks.len(), "disks"),
            (vdevs.iter().all(|vdev| vdev.parse::<Vdev>().is_ok() && domain_file::is_name(vdev)), "disks"),
            (self.images.len() == file.disks.len() && self.images.len() < FILES_MAX, "images"),
            (file.disks.iter().all(|disk| disk.read_only || file.layered), "disks"),
            (files.clone().all(HostFile::is_right), "files"),
            (self.ramdisk.is_some() == file.ramdisk.is_some() && file.kernel.is_some(), "kernel"),
            (
                self.outer.as_ref().is_none_or(|outer| domain_file::vif::parse_mac(&outer.mac).is_some()),
                "mac",
            ),
        ] {
            if !right {
                return Err(OfferError::Value { what });
            }
        }
        Ok(())
    }
}

impl HostFile {
    /// No way out of the state directory, no relative path from nowhere.
    fn is_right(&self) -> bool {
        let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        self.path.is_absolute() && self.in_state.as_deref().is_none_or(plain)
    }
}

/// A token is also the name of a file.
pub fn is_token(text: &str) -> bool {
    text.len() == TOKEN_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        let text = "name='web'\nmemory=64\nkernel='/k'\ndisk=['/i.img,,xvda,w']\nhn_layer=1\nvif=['']";
        let file = |path: &str| HostFile {
            path: path.into(),
            in_state: Some("images/a".into()),
            bytes: 1,
            blake3: String::new(),
        };
        Offer {
            version: VERSION,
            build: "test".into(),
            token: "0123456789abcdef0123456789abcdef".into(),
            domain: domain_file::parse(text).unwrap().file,
            uuid: [7; 16],
            outer: None,
            backend: Backend::Pvm,
            shim: "s".into(),
            features: vec![1],
            kernel: file("/k"),
            ramdisk: None,
            images: vec![file("/i.img")],
        }
    }

    #[test]
    fn an_offer_comes_back_as_it_was_sent() {
        let text = serde_json::to_vec(&offer()).unwrap();
        let back: Offer = serde_json::from_slice(&text).unwrap();
        assert_eq!(back, offer());
        back.check().unwrap();
    }

    #[test]
    fn offers_that_cannot_be_are_refused() {
        let check = |change: fn(&mut Offer), sentence: &str| {
            let mut offer = offer();
            change(&mut offer);
            assert_eq!(offer.check().unwrap_err().to_string(), sentence);
        };
        check(|offer| offer.version = 2, "honeynet test speaks version 2 of migration, this one speaks 1");
        check(|offer| offer.token = "../x".into(), "the offered domain's token cannot be");
        check(|offer| offer.domain.name = "a/b".into(), "the offered domain's name cannot be");
        check(|offer| offer.domain.memory_mib = 1 << 50, "the offered domain's memory cannot be");
        check(|offer| offer.domain.maxvcpus = 999, "the offered domain's number of vcpus cannot be");
        check(|offer| offer.domain.disks[0].vdev = "../a".into(), "the offered domain's disks cannot be");
        check(|offer| offer.domain.layered = false, "the offered domain's disks cannot be");
        check(|offer| offer.images.clear(), "the offered domain's images cannot be");
        check(|offer| offer.kernel.in_state = Some("../k".into()), "the offered domain's files cannot be");
        check(|offer| offer.images[0].path = "i".into(), "the offered domain's files cannot be");
        check(
            |offer| offer.outer = Some(Outer { mac: "x".into(), address: Ipv4Addr::LOCALHOST }),
            "the offered domain's mac cannot be",
        );
    }
}
