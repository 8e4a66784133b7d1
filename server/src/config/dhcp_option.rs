//! `options = [{ code = 42, ip = "10.77.0.1" }]`: a DHCP option by number, with a value of one type.

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

impl DhcpOption {
    fn value(&self) -> Result<Vec<u8>, String> {
        let Self { code: _, text, ip, ips, u8, u16, u32, hex } = self;
        let mut values = Vec::new();
        values.extend(text.as_ref().map(|text| text.clone().into_bytes()));
        values.extend(ip.map(|ip| ip.octets().to_vec()));
        values.extend(ips.as_ref().map(|ips| ips.iter().flat_map(Ipv4Addr::octets).collect()));
        values.extend(u8.map(|number| vec![number]));
        values.extend(u16.map(|number| number.to_be_bytes().to_vec()));
        values.extend(u32.map(|number| number.to_be_bytes().to_vec()));
        if let Some(text) = hex {
            values.push(from_hex(text).ok_or_else(|| format!("hex {text:?} is not pairs of hex digits"))?);
        }
        match (values.pop(), values.pop()) {
            (Some(value), None) if value.len() <= VALUE_MAX => Ok(value),
            (Some(_), None) => Err(format!("the value is longer than {VALUE_MAX} bytes")),
            _ => Err("exactly one of text, ip, ips, u8, u16, u32 and hex must be given".into()),
        }
    }

    fn check(&self) -> Result<Vec<u8>, String> {
        if !is_settable(self.code) {
            return Err("it is the server's own to set".into());
        }
        self.value()
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
