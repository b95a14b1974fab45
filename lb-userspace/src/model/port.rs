//! What is served on an address.

use std::{fmt, str::FromStr};

use super::{
    UnknownValue, Word,
    word::{text_serde, words},
};

/// A protocol and a port: `tcp/80`, `udp/any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port, never 0; `None` for every port.
    pub port: Option<u16>,
}

/// Why a text is not a [`Port`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No slash.
    #[error("`{0}` does not say protocol and port; write `tcp/80`, `udp/53` or `tcp/any`")]
    NoProtocol(String),
    /// The parts are swapped.
    #[error("`{text}` has port and protocol the wrong way round; write `{swapped}`")]
    Swapped {
        /// As written.
        text: String,
        /// As it should be.
        swapped: String,
    },
    /// Not a protocol.
    #[error(transparent)]
    Protocol(#[from] UnknownValue),
    /// Port 0.
    #[error("port 0 cannot be dialled; for every port write `{0}/any`")]
    Zero(Protocol),
    /// Not a port.
    #[error("`{text}` is not a port; write a number from 1 to 65535, or `{protocol}/any` for every port")]
    NotAPort {
        /// What stands behind the slash.
        text: String,
        /// The protocol before it.
        protocol: Protocol,
    },
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (left, right) = text.split_once('/').ok_or_else(|| PortError::NoProtocol(text.to_owned()))?;
        let protocol = match left.parse::<Protocol>() {
            Ok(protocol) => protocol,
            Err(_) if right.parse::<Protocol>().is_ok() => {
                return Err(PortError::Swapped { text: text.to_owned(), swapped: format!("{right}/{left}") });
            }
            Err(unknown) => return Err(unknown.into()),
        };
        let port = match right {
            "any" => None,
            number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => match number.parse() {
                Ok(0) => return Err(PortError::Zero(protocol)),
                Ok(port) => Some(port),
                Err(_) => return Err(PortError::NotAPort { text: right.to_owned(), protocol }),
            },
            _ => return Err(PortError::NotAPort { text: right.to_owned(), protocol }),
        };
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}/{port}", self.protocol),
            None => write!(f, "{}/any", self.protocol),
        }
    }
}

text_serde!(Port);

words! {
    /// A transport protocol that VIPs serve.
    Protocol: "protocol" {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        for text in ["tcp/1", "tcp/65535", "udp/53", "udp/any"] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), text);
        }
        for (text, message) in [
            ("80", "`80` does not say protocol and port; write `tcp/80`, `udp/53` or `tcp/any`"),
            ("80/udp", "`80/udp` has port and protocol the wrong way round; write `udp/80`"),
            ("TCP/80", "unknown protocol `TCP`; did you mean `tcp`?"),
            ("icmp/8", "unknown protocol `icmp`; use one of `tcp`, `udp`"),
            ("udp/0", "port 0 cannot be dialled; for every port write `udp/any`"),
            ("tcp/+1", "`+1` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
            ("tcp/65536", "`65536` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
            ("tcp/", "`` is not a port; write a number from 1 to 65535, or `tcp/any` for every port"),
        ] {
            assert_eq!(text.parse::<Port>().unwrap_err().to_string(), message);
        }
    }
}
