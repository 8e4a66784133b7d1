//! `options = [{ code = 42, ip = "10.77.0.1" }]`: a DHCP option by number, with a value of one type.

use super::dhcp_shape;
use kaltstart_core::dhcp::parameters::is_settable;
use kaltstart_protocol::dhcp::options::Options;
use serde::Deserialize;
use std::net::Ipv4Addr;

/// Longest value of an option: beyond it no message of ordinary size has room.
const VALUE_MAX: usize = 1024;

/// An option.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpOption {
    /// Its number.
    pub code: u8,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    ip: Option<Ipv4Addr>,
    #[serde(default)]
    ips: Option<Vec<Ipv4Addr>>,
    #[serde(default)]
    u8: Option<u8>,
    #[serde(default)]
    u16: Option<u16>,
    #[serde(default)]
    u32: Option<u32>,
    #[serde(default)]
    hex: Option<String>,
}

/// The value of an option, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Addresses(Vec<Ipv4Addr>),
    U8(u8),
    U16(u16),
    U32(u32),
    Bytes(Vec<u8>),
}

impl Value {
    /// As it is sent.
    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Addresses(addresses) => addresses.iter().flat_map(Ipv4Addr::octets).collect(),
            Self::U8(number) => vec![number],
            Self::U16(number) => number.to_be_bytes().to_vec(),
            Self::U32(number) => number.to_be_bytes().to_vec(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl DhcpOption {
    fn value(&self) -> Result<Value, String> {
        let Self { code: _, text, ip, ips, u8, u16, u32, hex } = self;
        let mut values = Vec::new();
        values.extend(text.clone().map(Value::Text));
        values.extend(ip.map(|ip| Value::Addresses(vec![ip])));
        values.extend(ips.clone().map(Value::Addresses));
        values.extend(u8.map(Value::U8));
        values.extend(u16.map(Value::U16));
        values.extend(u32.map(Value::U32));
        if let Some(text) = hex {
            let bytes = from_hex(text).ok_or_else(|| format!("hex {text:?} is not pairs of hex digits"))?;
            values.push(Value::Bytes(bytes));
        }
        match (values.pop(), values.pop()) {
            (Some(value), None) => Ok(value),
            _ => Err("exactly one of text, ip, ips, u8, u16, u32 and hex must be given".into()),
        }
    }

    /// The value as it is sent.
    fn check(&self) -> Result<Vec<u8>, String> {
        if !is_settable(self.code) {
            return Err("it is the server's own to set".into());
        }
        let value = self.value()?;
        if let Some((name, shape)) = dhcp_shape::known(self.code).filter(|(_, shape)| !shape.admits(&value)) {
            return Err(format!("{name}: the value must be {shape}"));
        }
        let bytes = value.into_bytes();
        if bytes.len() > VALUE_MAX {
            return Err(format!("the value is longer than {VALUE_MAX} bytes"));
        }
        Ok(bytes)
    }
}

/// The options as they are sent; those that are refused are left out.
pub(super) fn collect(options: &[DhcpOption]) -> Options {
    let mut all = Options::default();
    for option in options {
        if let Ok(value) = option.check() {
            all.set(option.code, value);
        }
    }
    all
}

/// What is wrong with the options of `whose`.
pub(super) fn problems(whose: &str, options: &[DhcpOption], all: &mut Vec<String>) {
    let mut seen = Vec::new();
    for option in options {
        let code = option.code;
        if let Err(problem) = option.check() {
            all.push(format!("{whose}: options: code {code}: {problem}"));
        }
        if seen.contains(&code) {
            all.push(format!("{whose}: options: code {code} occurs twice"));
        }
        seen.push(code);
    }
}

/// Pairs of hex digits, with or without colons between them.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent, or why nothing is.
    fn check(text: &str) -> Result<Vec<u8>, String> {
        toml::from_str::<DhcpOption>(text).expect("an option").check()
    }

    #[test]
    fn well_known_options_have_their_shape() {
        for (good, bytes) in [
            ("code = 42\nips = [\"10.0.0.1\", \"10.0.0.2\"]", &[10, 0, 0, 1, 10, 0, 0, 2][..]),
            ("code = 3\nip = \"10.0.0.1\"", &[10, 0, 0, 1]),
            ("code = 26\nu16 = 1400", &[5, 120]),
            ("code = 24\nu32 = 600", &[0, 0, 2, 88]),
            ("code = 23\nu8 = 64", &[64]),
            ("code = 19\nu8 = 1", &[1]),
            ("code = 15\ntext = \"a.b\"", b"a.b"),
            ("code = 33\nips = [\"10.1.0.0\", \"10.0.0.1\"]", &[10, 1, 0, 0, 10, 0, 0, 1]),
            // Whoever writes bytes knows what they mean, and of other numbers nothing is known.
            ("code = 26\nhex = \"05\"", &[5]),
            ("code = 224\ntext = \"a\"", b"a"),
        ] {
            assert_eq!(check(good).as_deref(), Ok(bytes), "{good}");
        }
        for (bad, named) in [
            ("code = 42\ntext = \"10.0.0.1\"", "NTP servers: the value must be addresses: write `ip`"),
            ("code = 42\nips = []", "addresses"),
            ("code = 3\nu32 = 1", "routers"),
            ("code = 6\ntext = \"10.0.0.1\"", "name servers"),
            ("code = 28\nips = [\"10.0.0.1\", \"10.0.0.2\"]", "one address"),
            ("code = 33\nip = \"10.0.0.1\"", "even number"),
            ("code = 26\nu8 = 220", "interface MTU: the value must be a number of 16 bits: write `u16`"),
            ("code = 24\nu16 = 600", "`u32`"),
            ("code = 23\nu16 = 64", "`u8`"),
            ("code = 19\nu8 = 2", "yes or no"),
            ("code = 15\nip = \"10.0.0.1\"", "`text`"),
            ("code = 15\ntext = \"\"", "`text`"),
            ("code = 119\ntext = \"example.org\"", "domain search list: the value must be in a form"),
        ] {
            let problem = check(bad).expect_err(bad);
            assert!(problem.contains(named), "{named:?} in {problem:?}");
        }
    }
}
