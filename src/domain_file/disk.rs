//! Disk specifications: xl-disk-configuration(5), positional, `key=value` and the old prefixed form. Pure.
//!
//! Only raw images and devices are served; every other format is refused by name.

use std::path::PathBuf;

/// One entry of `disk = [...]`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// The image or block device.
    pub target: PathBuf,
    /// The name in the guest.
    pub vdev: String,
    /// The guest may not write.
    pub read_only: bool,
}

/// Why a disk specification is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// A needed field is missing.
    #[error("disk {spec:?} has no {field}")]
    Missing {
        /// As written.
        spec: String,
        /// Which.
        field: &'static str,
    },
    /// Not a raw image.
    #[error("disk {spec:?} has format {format:?}, only raw is served")]
    Format {
        /// As written.
        spec: String,
        /// The format.
        format: String,
    },
    /// An access that is none.
    #[error("disk {spec:?} has access {access:?}, which is none of r, ro, w, rw")]
    Access {
        /// As written.
        spec: String,
        /// The access.
        access: String,
    },
    /// A vdev that no guest has.
    #[error(
        "disk {spec:?} has vdev {vdev:?}, which is none of xvdX, sdX, hdX with an optional partition number"
    )]
    Vdev {
        /// As written.
        spec: String,
        /// The vdev.
        vdev: String,
    },
    /// A key that we do not serve.
    #[error("disk {spec:?} has {key:?}, which is not served")]
    Key {
        /// As written.
        spec: String,
        /// The key or flag.
        key: String,
    },
    /// More fields than there are.
    #[error("disk {spec:?} has more than four positional fields")]
    TooMany {
        /// As written.
        spec: String,
    },
}

/// Prefixes of the old form; what follows is `target,vdev,access`. `tap:aio:` is two of them.
const RAW_PREFIXES: [&str; 7] = ["file:", "phy:", "raw:", "tap:", "tap2:", "aio:", "ioemu:"];
const OTHER_PREFIXES: [&str; 5] = ["qcow:", "qcow2:", "vhd:", "qed:", "vmdk:"];

/// One disk specification.
pub fn parse(spec: &str) -> Result<DiskSpec, DiskError> {
    let (rest, prefixed) = strip_prefixes(spec)?;
    let mut fields = Fields::default();
    // `target=` is greedy in xl: the rest of the string, commas and all.
    let (head, greedy) = match rest.find("target=") {
        Some(start) if start == 0 || rest[..start].trim_end().ends_with(',') => {
            (rest[..start].trim_end().trim_end_matches(','), Some(&rest[start + "target=".len()..]))
        }
        _ => (rest, None),
    };
    let mut position = 0;
    let skip_format = usize::from(prefixed);
    for (index, field) in head.split(',').map(str::trim).enumerate() {
        if index == 0 && field.is_empty() && greedy.is_some() {
            continue;
        }
        match field.split_once('=') {
            Some((key, value)) => fields.named(spec, key.trim(), value.trim())?,
            None if fields.flag(field) => {}
            None => {
                fields.positional(spec, if position == 0 { 0 } else { position + skip_format }, field)?;
                position += 1;
            }
        }
    }
    if let Some(target) = greedy {
        fields.target = Some(target.trim().to_owned());
    }
    fields.finish(spec)
}

fn strip_prefixes(spec: &str) -> Result<(&str, bool), DiskError> {
    let mut rest = spec.trim();
    let mut prefixed = false;
    loop {
        if let Some(other) = OTHER_PREFIXES.iter().find(|p| rest.starts_with(**p)) {
            let format = other.trim_end_matches(':').to_owned();
            return Err(DiskError::Format { spec: spec.to_owned(), format });
        }
        match RAW_PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
            Some(stripped) => (rest, prefixed) = (stripped, true),
            None => return Ok((rest, prefixed)),
        }
    }
}

#[derive(Default)]
struct Fields {
    target: Option<String>,
    format: Option<String>,
    vdev: Option<String>,
    access: Option<String>,
}

impl Fields {
    fn named(&mut self, spec: &str, key: &str, value: &str) -> Result<(), DiskError> {
        let refused = || DiskError::Key { spec: spec.to_owned(), key: format!("{key}={value}") };
        match key {
            "format" => self.format = Some(value.to_owned()),
            "vdev" => self.vdev = Some(value.to_owned()),
            "access" => self.access = Some(value.to_owned()),
            "devtype" if value == "disk" => {}
            "backendtype" if value == "phy" || value == "tap" || value == "qdisk" => {}
            _ => return Err(refused()),
        }
        Ok(())
    }

    // Flags that xl accepts anywhere; those without meaning for us change nothing.
    fn flag(&mut self, field: &str) -> bool {
        matches!(field, "discard" | "no-discard" | "direct-io-safe")
    }

    fn positional(&mut self, spec: &str, position: usize, field: &str) -> Result<(), DiskError> {
        let slot = match position {
            0 => &mut self.target,
            1 => &mut self.format,
            2 => &mut self.vdev,
            3 => &mut self.access,
            _ => return Err(DiskError::TooMany { spec: spec.to_owned() }),
        };
        if !field.is_empty() {
            *slot = Some(field.to_owned());
        }
        Ok(())
    }

    fn finish(self, spec: &str) -> Result<DiskSpec, DiskError> {
        let missing = |field| DiskError::Missing { spec: spec.to_owned(), field };
        if let Some(format) = self.format.filter(|f| f != "raw" && f != "aio") {
            return Err(DiskError::Format { spec: spec.to_owned(), format });
        }
        let target = self.target.ok_or_else(|| missing("target"))?;
        let vdev = self.vdev.ok_or_else(|| missing("vdev"))?;
        let vdev = vdev.strip_suffix(":disk").unwrap_or(&vdev).to_owned();
        if !is_vdev(&vdev) {
            return Err(DiskError::Vdev { spec: spec.to_owned(), vdev });
        }
        let read_only = match self.access.as_deref() {
            Some("r" | "ro") => true,
            None | Some("w" | "rw") => false,
            Some(access) => {
                return Err(DiskError::Access { spec: spec.to_owned(), access: access.to_owned() });
            }
        };
        Ok(DiskSpec { target: target.into(), vdev, read_only })
    }
}

/// xen-vbd-interface(7): `xvda`, `xvda1`, `sda`, `hdc3`; `d0p0` and bare numbers are not served.
fn is_vdev(vdev: &str) -> bool {
    let Some(rest) = ["xvd", "sd", "hd"].iter().find_map(|p| vdev.strip_prefix(p)) else {
        return false;
    };
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    let digits = &rest[letters..];
    (1..=2).contains(&letters) && digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, target: &str, vdev: &str, read_only: bool) {
        let wanted = DiskSpec { target: target.into(), vdev: vdev.into(), read_only };
        assert_eq!(parse(spec), Ok(wanted), "of {spec:?}");
    }

    #[test]
    fn old_new_and_named_forms_are_read() {
        check("file:/img/master.img,sda1,w", "/img/master.img", "sda1", false);
        check("phy:/dev/vg/root,xvda,r", "/dev/vg/root", "xvda", true);
        check("tap:aio:/img/a.img,hda,w", "/img/a.img", "hda", false);
        check("/img/a.img,raw,xvda,rw", "/img/a.img", "xvda", false);
        check("/img/a.img,,xvdb,ro", "/img/a.img", "xvdb", true);
        check("/img/a.img, raw, xvda", "/img/a.img", "xvda", false);
        check("format=raw, vdev=xvda1, access=ro, target=/img/a,b.img", "/img/a,b.img", "xvda1", true);
        check("/img/a.img,vdev=xvda:disk,access=rw,discard", "/img/a.img", "xvda", false);
    }

    fn refused(spec: &str, sentence: &str) {
        assert_eq!(parse(spec).unwrap_err().to_string(), sentence, "of {spec:?}");
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        refused("", "disk \"\" has no target");
        refused("/a", "disk \"/a\" has no vdev");
        refused("qcow:/a,xvda,w", "disk \"qcow:/a,xvda,w\" has format \"qcow\", only raw is served");
        refused("/a,qcow2,xvda,w", "disk \"/a,qcow2,xvda,w\" has format \"qcow2\", only raw is served");
        refused("/a,raw,xvda,x", "disk \"/a,raw,xvda,x\" has access \"x\", which is none of r, ro, w, rw");
        refused("/a,raw,xvda,w,more", "disk \"/a,raw,xvda,w,more\" has more than four positional fields");
        refused(
            "/a,raw,vda,w",
            "disk \"/a,raw,vda,w\" has vdev \"vda\", which is none of xvdX, sdX, hdX with an optional partition number",
        );
        refused(
            "/a,raw,xvda,w,script=x",
            "disk \"/a,raw,xvda,w,script=x\" has \"script=x\", which is not served",
        );
    }
}
