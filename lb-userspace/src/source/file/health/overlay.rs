//! Reads `health` of a backend, which lies over that of its VIP key by key.

use std::ops::Range;

use toml::{Spanned, de::DeTable};

use super::{
    super::{
        error::Problems,
        tree::{self, Section, Value},
    },
    NONE, read,
};
use crate::model::{Health, keys};

/// Where one of these is given, what the VIP says of the others does not hold.
const TOGETHER: &[&[&str]] =
    &[&["send", "send_hex"], &["expect", "expect_hex"], &["ca", "verify"], &["client_cert", "client_key"]];

/// `health` of the VIP.
pub struct OfVip<'t> {
    /// What the text has.
    pub value: &'t Value<'t>,
    /// Whether nothing is wrong with it.
    pub is_sound: bool,
}

/// Reads the table, or the word that it is not to be asked.
pub fn of_backend(
    value: &Value<'_>,
    of_vip: Option<&OfVip<'_>>,
    problems: &mut Problems,
) -> Option<Spanned<Option<Health>>> {
    if value.get_ref().as_str() == Some(NONE) {
        return Some(Spanned::new(value.span(), None));
    }
    let example = r#"a table, `{ port = 8080 }`, or `"none"`"#;
    let own = tree::table("`health` of a backend", value, example, problems)?;
    let before = problems.0.len();
    Section::open("in health", value.span(), own, keys::HEALTH_ALL, problems);
    for (key, at) in own.iter().filter(|(key, _)| is_of_vip(key.get_ref())) {
        let message = format!("`{}` is about all backends of a VIP; write it into the VIP's `health`", key.get_ref());
        problems.add(at.span(), message);
    }
    let Some(OfVip { value: of_vip, is_sound }) = of_vip.filter(|of_vip| of_vip.value.get_ref().is_table()) else {
        let message = "this lies over the VIP's `health`, and there is none; write that, and `health = \"none\"` for backends \
                       that are not to be asked";
        problems.add(value.span(), message);
        return None;
    };
    let of_vip = of_vip.get_ref().as_table()?;
    let mut found = Problems::default();
    let health = read(value.span(), &laid_over(of_vip, own), &mut found);
    for mut problem in found.0 {
        if !has(own, &problem.span) {
            if !is_sound {
                // That of the VIP is what is wrong, and noted.
                continue;
            }
            problem.span = value.span();
            problem.message = format!("together with the VIP's `health`: {}", problem.message);
        }
        problems.0.push(problem);
    }
    health.filter(|_| problems.0.len() == before).map(|health| Spanned::new(value.span(), Some(health)))
}

/// Whether a key is none of how a backend is asked.
fn is_of_vip(key: &str) -> bool {
    keys::HEALTH.iter().any(|known| known.name == key) && !keys::HEALTH_OF_BACKEND.contains(&key)
}

/// The keys of a backend, and those of its VIP that hold beside them.
fn laid_over<'t>(of_vip: &DeTable<'t>, own: &DeTable<'t>) -> DeTable<'t> {
    let kind = |table: &DeTable<'t>| table.get("type").and_then(|kind| kind.get_ref().as_str().map(str::to_owned));
    let is_other = own.contains_key("type") && kind(own) != kind(of_vip);
    let is_known = |key: &str| keys::HEALTH_ALL.iter().copied().flatten().any(|known| known.name == key);
    let is_replaced = |key: &str| {
        let together = TOGETHER.iter().find(|together| together.contains(&key));
        let is_one = together.is_some_and(|together| together.iter().any(|other| own.contains_key(*other)));
        is_one || own.contains_key("tls") && keys::HEALTH_TLS.iter().any(|known| known.name == key)
    };
    let holds = |key: &str, value: &Value<'_>| match key {
        _ if own.contains_key(key) || is_replaced(key) || !is_known(key) => false,
        // At the address everybody can be asked.
        "via" => !is_other || value.get_ref().as_str() == Some("address"),
        "port" => !is_other,
        _ => !is_other || keys::HEALTH.iter().any(|known| known.name == key),
    };
    let own = own.iter().filter(|(key, _)| is_known(key.get_ref()) && !is_of_vip(key.get_ref()));
    let of_vip = of_vip.iter().filter(|(key, value)| holds(key.get_ref(), value));
    own.chain(of_vip).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether it is one of its values, or part of one, that these bytes are.
fn has(table: &DeTable<'_>, span: &Range<usize>) -> bool {
    table.values().any(|value| value.span().contains(&span.start))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use crate::model::Config;

    /// How a backend is asked whose `health` is `own`, of a VIP whose `health` is `of_vip`.
    fn asked(of_vip: &str, own: &str) -> String {
        let text = format!(
            "node = {{ interfaces = [] }}\n[[vip]]\nname = \"web\"\naddress = \"192.0.2.1\"\nports = [\"tcp/80\", \
             \"udp/53\"]\nforward = \"ipip\"\nhealth = {of_vip}\n[[vip.backends]]\naddress = \"10.0.0.1\"\nhealth = \
             {own}\n[[vip.backends]]\naddress = \"10.0.0.2\"\n"
        );
        let config = Config::parse(&text, "f".as_ref()).unwrap();
        let vip = &config.vips[0];
        let [first, second] = [1, 2].map(|host| vip.health_of(IpAddr::from([10, 0, 0, host])));
        assert_eq!(second, vip.health.as_ref(), "others are asked as the VIP says");
        first.map_or_else(|| "not".to_owned(), ToString::to_string)
    }

    #[test]
    fn what_a_backend_does_not_say_the_vip_does() {
        let page = r#"{ type = "http", path = "/a", port = 8080, interval = "4s", panic = "50%" }"#;
        for (own, expected) in [
            ("{}", "http :8080/a, every 4s (500ms), timeout 1s, rise 2, fall 3, reset, panic 50%"),
            (r#"{ path = "/b" }"#, "http :8080/b, every 4s (500ms), timeout 1s, rise 2, fall 3, reset, panic 50%"),
            (
                r#"{ type = "http", port = 81, interval = "200ms", fall = 9 }"#,
                "http :81/a, every 200ms (200ms), timeout 1s, rise 2, fall 9, reset, panic 50%",
            ),
            // Another type has none of the keys, but the times are those of the VIP.
            (r#"{ type = "tcp" }"#, "tcp, every 4s (500ms), timeout 1s, rise 2, fall 3, reset, panic 50%"),
            (
                r#"{ type = "icmp", rise = 1 }"#,
                "icmp via address, every 4s (500ms), timeout 1s, rise 1, fall 3, reset, panic 50%",
            ),
            (r#""none""#, "not"),
        ] {
            assert_eq!(asked(page, own), expected, "{own}");
        }
    }

    #[test]
    fn what_cannot_hold_beside_what_a_backend_says_does_not() {
        let rest = "every 2s (500ms), timeout 1s, rise 2, fall 3, reset";
        for (of_vip, own, expected) in [
            (r#"{ type = "udp", send = "a" }"#, r#"{ send_hex = "00" }"#, "udp send 0x00"),
            (r#"{ type = "tls", ca = "/ca" }"#, "{ verify = false }", "tls without verification"),
            (r#"{ type = "tls", verify = false, sni = "a" }"#, r#"{ ca = "/b" }"#, "tls sni a ca /b"),
            (r#"{ type = "grpc", tls = true, ca = "/ca" }"#, "{ tls = false }", "grpc"),
            (r#"{ type = "tcp", via = "address" }"#, r#"{ type = "http" }"#, "http / via address"),
            (r#"{ type = "tcp", via = "path" }"#, r#"{ type = "icmp" }"#, "icmp via address"),
        ] {
            assert_eq!(asked(of_vip, own), format!("{expected}, {rest}"), "{own}");
        }
    }
}
