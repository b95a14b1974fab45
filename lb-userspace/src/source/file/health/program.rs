//! Reads which program finds out whether a backend works.

use super::super::{
    error::Problems,
    tree::{self, Section, Value},
};
use crate::model::Program;

/// Of the keys of `health`, whose type is at `kind`.
pub fn read(section: &Section<'_>, kind: &Value<'_>, problems: &mut Problems) -> Option<Program> {
    let before = problems.0.len();
    let Some(value) = section.optional("command") else {
        let message = "`exec` needs a program to start; add `command = [\"/usr/local/lib/naru/probe\", \"argument\"]`";
        problems.add(kind.span(), message);
        return None;
    };
    let words = tree::array("`command`", value, problems)?;
    let Some(first) = words.first() else {
        problems.add(value.span(), "`command` is empty; write the path of a program, and its arguments");
        return None;
    };
    let path = tree::path("the program of `command`", first, problems);
    let mut command = Vec::new();
    for word in words {
        // What is wrong with the first is said.
        let is_said = path.is_none() && command.is_empty();
        let text = if is_said { "" } else { tree::text("each word of `command`", word, problems)? };
        if text.contains('\0') {
            problems.add(word.span(), "this has a NUL, which no argument of a program can have; leave it out");
        }
        command.push(text.to_owned());
    }
    (problems.0.len() == before).then_some(Program { command })
}
