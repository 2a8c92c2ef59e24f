//! Network interface specifications: xl-network-configuration(5). Pure.
//!
//! Every vif ends at the honeynet's switch, so `bridge`, `model`, `type`, `script`, `backend` and `vifname` are read and
//! have no effect.

use std::net::Ipv4Addr;

/// One entry of `vif = [...]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VifSpec {
    /// MAC address; `None` has one made from the domain's uuid.
    pub mac: Option<[u8; 6]>,
    /// The one address that the guest may use as its source; `None` leaves that to the honeynet file.
    pub ip: Option<Ipv4Addr>,
    /// Keys that were read and have no effect.
    pub ignored: Vec<String>,
}

/// Why a vif specification is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VifError {
    /// Not `key=value`.
    #[error("vif {spec:?} has {field:?}, which is not key=value")]
    NotAPair {
        /// As written.
        spec: String,
        /// The field.
        field: String,
    },
    /// Not a MAC address that an interface can have.
    #[error("vif {spec:?} has mac {mac:?}, which is not six hexadecimal bytes of a unicast address")]
    Mac {
        /// As written.
        spec: String,
        /// The address.
        mac: String,
    },
    /// Not an IPv4 address.
    #[error("vif {spec:?} has ip {ip:?}, which is not an IPv4 address")]
    Ip {
        /// As written.
        spec: String,
        /// The address.
        ip: String,
    },
    /// Unknown key.
    #[error("vif {spec:?} has the unknown key {key:?}")]
    Key {
        /// As written.
        spec: String,
        /// The key.
        key: String,
    },
}

/// One vif specification; the empty one is a vif with a MAC address of our making.
pub fn parse(spec: &str) -> Result<VifSpec, VifError> {
    let mut vif = VifSpec::default();
    for field in spec.split(',').map(str::trim).filter(|f| !f.is_empty()) {
        let Some((key, value)) = field.split_once('=') else {
            return Err(VifError::NotAPair { spec: spec.to_owned(), field: field.to_owned() });
        };
        let value = value.trim();
        match key.trim() {
            "mac" => {
                let mac = parse_mac(value);
                vif.mac =
                    Some(mac.ok_or_else(|| VifError::Mac { spec: spec.to_owned(), mac: value.to_owned() })?);
            }
            "ip" => {
                let ip = value.parse();
                vif.ip = Some(ip.map_err(|_| VifError::Ip { spec: spec.to_owned(), ip: value.to_owned() })?);
            }
            "bridge" | "model" | "type" | "script" | "backend" | "vifname" | "gatewaydev" | "netdev"
            | "rate" => {
                vif.ignored.push(key.trim().to_owned());
            }
            other => return Err(VifError::Key { spec: spec.to_owned(), key: other.to_owned() }),
        }
    }
    Ok(vif)
}

/// `00:16:3e:12:34:56`; multicast and all-zero addresses are none that an interface can have.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0u8; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let unicast = mac[0] & 1 == 0 && mac != [0; 6];
    (parts.next().is_none() && unicast).then_some(mac)
}

/// The usual text form.
pub fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_ip_and_ignored_keys_are_read() {
        assert_eq!(parse(""), Ok(VifSpec::default()));
        let vif = parse("mac=00:16:3e:00:00:01, ip=10.77.0.9,bridge=xenbr0").unwrap();
        assert_eq!(vif.mac, Some([0, 0x16, 0x3e, 0, 0, 1]));
        assert_eq!(vif.ip, Some(Ipv4Addr::new(10, 77, 0, 9)));
        assert_eq!(vif.ignored, ["bridge"]);
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        let check = |spec: &str, sentence: &str| assert_eq!(parse(spec).unwrap_err().to_string(), sentence);
        check("nonsense", "vif \"nonsense\" has \"nonsense\", which is not key=value");
        for mac in [
            "01:16:3e:00:00:01",
            "00:16:3e:00:00",
            "0:16:3e:00:00:01",
            "00:16:3e:00:00:01:02",
            "00:00:00:00:00:00",
        ] {
            check(
                &format!("mac={mac}"),
                &format!(
                    "vif \"mac={mac}\" has mac {mac:?}, which is not six hexadecimal bytes of a unicast address"
                ),
            );
        }
        check("ip=10.0.0", "vif \"ip=10.0.0\" has ip \"10.0.0\", which is not an IPv4 address");
        check("colour=red", "vif \"colour=red\" has the unknown key \"colour\"");
    }
}
