//! VIPs in the words of the config, for tests and benchmarks that make theirs up.

use std::fmt;

/// The text of one `[[vip]]`: begun by [`VipText::new`], ended by its `Display`.
#[derive(Clone, Debug)]
pub struct VipText {
    keys: String,
    backends: String,
}

impl VipText {
    /// With these ports, such as `["tcp/80", "udp/any"]`, and no backend yet.
    pub fn new<P: fmt::Display>(
        name: impl fmt::Display,
        address: impl fmt::Display,
        ports: impl IntoIterator<Item = P>,
        forward: &str,
    ) -> Self {
        let ports: Vec<_> = ports.into_iter().map(|port| format!("\"{port}\"")).collect();
        let vip = Self { keys: String::new(), backends: String::new() };
        let vip = vip.text("name", name).text("address", address);
        vip.value("ports", format_args!("[{}]", ports.join(", "))).text("forward", forward)
    }

    /// Another key, whose value is a string.
    pub fn text(self, key: &str, value: impl fmt::Display) -> Self {
        self.value(key, format_args!("\"{value}\""))
    }

    /// Another key, whose value is none.
    pub fn value(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.keys += &format!("{key} = {value}\n");
        self
    }

    /// More lines of keys.
    pub fn lines(mut self, lines: &str) -> Self {
        self.keys += lines.trim_end();
        self.keys += "\n";
        self
    }

    /// Another backend.
    pub fn backend(self, address: impl fmt::Display) -> Self {
        self.backend_with(address, "")
    }

    /// Another backend with more keys, such as `weight = 100`.
    pub fn backend_with(mut self, address: impl fmt::Display, keys: &str) -> Self {
        let comma = if keys.is_empty() { "" } else { ", " };
        self.backends += &format!("  {{ address = \"{address}\"{comma}{keys} }},\n");
        self
    }

    /// A comment behind the last backend.
    pub fn comment(mut self, comment: &str) -> Self {
        let line = self.backends.trim_end().len();
        self.backends.truncate(line);
        self.backends += &format!(" # {comment}\n");
        self
    }

    /// More backends.
    pub fn backends<A: fmt::Display>(self, addresses: impl IntoIterator<Item = A>) -> Self {
        addresses.into_iter().fold(self, Self::backend)
    }
}

impl fmt::Display for VipText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[vip]]\n{}backends = [\n{}]\n\n", self.keys, self.backends)
    }
}

/// A config whose VIPs say nothing of health, with their backends probed over the path of clients.
pub fn probed(config: &str) -> String {
    config.replace("\nforward = ", "\nhealth = { type = \"tcp\", port = 80 }\nforward = ")
}
