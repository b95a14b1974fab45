//! The reference of the config: `docs/config.md`, made from what is known of each key.

use std::fmt::Write as _;

use crate::model::keys::{BACKEND, HEALTH_ALL, Key, NODE, SETTINGS, VIP, VIP_BACKENDS};

/// The text of `docs/config.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# The config\n\n\
         <!-- Made from `lb-userspace/src/model/keys.rs`, and compared with it by a test. To write it anew:\n\
         NARU_WRITE_DOCS=1 cargo test --workspace --test reference -->\n\n\
         Every key of the config file, what holds without it, what it is for, and what a change of it does to \
         connections.\n\
         [configs/naru.toml](../configs/naru.toml) says more of each, as a file to begin from. A key that is not here \
         is\n\
         refused. The file is `/etc/naru/naru.toml`, or what `--config` or `NARU_CONFIG` says; `naru check` finds \
         what is\n\
         wrong with it, `naru diff` shows what `naru apply` would change.\n\n",
    );
    section(&mut text, "`[node]`: the machine", &[NODE]);
    section(&mut text, "`[[vip]]`: a virtual address", &[VIP, SETTINGS, VIP_BACKENDS]);
    section(&mut text, "`health`: whether backends work", HEALTH_ALL);
    section(&mut text, "`backends`: the real servers of a VIP", &[BACKEND]);
    text.truncate(text.trim_end().len());
    text + "\n"
}

fn section(text: &mut String, title: &str, keys: &[&[Key]]) {
    *text += &format!("## {title}\n\n");
    *text += "| key | without it | what | what a change does to connections |\n| --- | --- | --- | --- |\n";
    for Key { name, example: _, default, help, effect } in keys.iter().copied().flatten() {
        let default = match *default {
            "" => "it is needed".to_owned(),
            // A value of the key, or words.
            value if !value.contains(' ') && value != "none" => format!("`{value}`"),
            words => words.to_owned(),
        };
        writeln!(text, "| `{name}` | {default} | {help} | {effect} |").expect("a string takes everything");
    }
    text.push('\n');
}
