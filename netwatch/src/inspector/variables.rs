//! Variables of rule files: `var`, `ipvar`, `portvar`, and the names that every rule set expects to find defined.

use std::collections::HashMap;

/// Ports where web servers of the usual rule sets are looked for.
const HTTP_PORTS: &str =
    "[80,81,443,591,3000,3128,5000,7001,8000,8008,8080,8081,8088,8180,8443,8888,9000,9090]";

/// Names and their values, as text. What the caller sets wins over what a rule file defines.
#[derive(Debug, Clone)]
pub struct Variables {
    fixed: HashMap<String, String>,
    defined: HashMap<String, String>,
}

impl Default for Variables {
    /// The customary names, every network `any`; a rule file may define each anew.
    fn default() -> Variables {
        let mut defined = HashMap::new();
        for name in [
            "HOME_NET",
            "EXTERNAL_NET",
            "DNS_SERVERS",
            "SMTP_SERVERS",
            "HTTP_SERVERS",
            "SQL_SERVERS",
            "TELNET_SERVERS",
        ]
        .into_iter()
        .chain(["SSH_SERVERS", "FTP_SERVERS", "SIP_SERVERS", "SNMP_SERVERS", "AIM_SERVERS"])
        {
            defined.insert(name.to_owned(), "any".to_owned());
        }
        for (name, ports) in [
            ("HTTP_PORTS", HTTP_PORTS),
            ("SHELLCODE_PORTS", "!80"),
            ("ORACLE_PORTS", "1024:"),
            ("SSH_PORTS", "22"),
            ("FTP_PORTS", "[21,2100,3535]"),
            ("SIP_PORTS", "[5060,5061,5600]"),
        ] {
            defined.insert(name.to_owned(), ports.to_owned());
        }
        defined.insert("FILE_DATA_PORTS".to_owned(), "[$HTTP_PORTS,110,143]".to_owned());
        Variables { fixed: HashMap::new(), defined }
    }
}

impl Variables {
    /// The default variables with this `HOME_NET` (a list as in a rule header) and everything else outside.
    pub fn with_home_net(home_net: &str) -> Variables {
        let mut variables = Variables::default();
        variables.set("HOME_NET", home_net);
        variables.set("EXTERNAL_NET", "!$HOME_NET");
        variables
    }

    /// Sets a variable so that no rule file changes it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.fixed.insert(name.to_owned(), value.to_owned());
    }

    /// What `var`, `ipvar` and `portvar` in a rule file do.
    pub(super) fn define(&mut self, name: &str, value: &str) {
        self.defined.insert(name.to_owned(), value.to_owned());
    }

    /// Value of an address variable.
    pub(super) fn address(&self, name: &str) -> Option<&str> {
        self.fixed.get(name).or_else(|| self.defined.get(name)).map(String::as_str)
    }

    /// Value of a port variable. `var` may define ports too, so there is one name space.
    pub(super) fn port(&self, name: &str) -> Option<&str> {
        self.address(name)
    }
}
