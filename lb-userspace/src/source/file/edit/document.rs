//! A config's text as a TOML document with everything in it that TOML does not care about.

use toml_edit::{Array, DocumentMut, Item, Table, Value};

use super::{
    EditError, array,
    table::{self, TableMut},
};

/// A parsed text.
pub(super) struct Document {
    toml: DocumentMut,
    /// Whether lines end as on Windows. The document knows newlines only.
    crlf: bool,
}

impl Document {
    /// Parses the text, which need not be a valid config.
    pub(super) fn parse(text: &str) -> Result<Self, EditError> {
        let crlf = text.find('\n').is_some_and(|newline| text[..newline].ends_with('\r'));
        let toml = if crlf { text.replace("\r\n", "\n").parse() } else { text.parse() };
        let toml = toml.map_err(|error: toml_edit::TomlError| EditError::Syntax(error.to_string()))?;
        Ok(Self { toml, crlf })
    }

    /// The text as it is now.
    pub(super) fn text(&self) -> String {
        let text = self.toml.to_string();
        if self.crlf { text.replace('\n', "\r\n") } else { text }
    }

    /// The VIP of that name.
    pub(super) fn vip(&mut self, name: &str) -> Result<TableMut<'_>, EditError> {
        let vips = match self.toml.get_mut("vip") {
            None => Vec::new(),
            Some(item) => table::list(item).ok_or(EditError::Shape("vip"))?,
        };
        let names: Vec<String> = vips.iter().filter_map(|vip| vip.text("name")).map(str::to_owned).collect();
        let found = vips.into_iter().find(|vip| vip.text("name") == Some(name));
        found.ok_or_else(|| EditError::UnknownVip { name: name.to_owned(), near: table::near(name, &names) })
    }

    /// The text, which was `text`, with a new VIP behind the others.
    pub(super) fn vip_add(&mut self, text: &str, name: &str, vip: &Table) -> Result<String, EditError> {
        match self.vip(name) {
            Ok(_) => return Err(EditError::VipExists(name.to_owned())),
            Err(EditError::UnknownVip { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(Item::Value(Value::Array(vips))) = self.toml.get_mut("vip") {
            array::push(vips, vip.clone().into_inline_table(), "", true);
            return Ok(self.text());
        }
        Ok(self.append(text, &format!("[[vip]]\n{vip}")))
    }

    /// Removes a VIP.
    pub(super) fn vip_remove(&mut self, name: &str) -> Result<(), EditError> {
        self.vip(name)?;
        match self.toml.get_mut("vip") {
            Some(Item::ArrayOfTables(vips)) => vips.retain(|vip| vip.get("name").and_then(Item::as_str) != Some(name)),
            Some(Item::Value(Value::Array(vips))) => {
                let is_it = |vip: &Value| vip.as_inline_table().and_then(|vip| vip.get("name")?.as_str()) == Some(name);
                array::remove_where(vips, is_it);
            }
            _ => return Err(EditError::Shape("vip")),
        }
        Ok(())
    }

    /// The text, which was `text`, with another interface.
    pub(super) fn interface_add(&mut self, text: &str, name: &str) -> Result<String, EditError> {
        let Some(node) = self.toml.get_mut("node") else {
            let interfaces = Array::from_iter([name]);
            return Ok(self.append(text, &format!("[node]\ninterfaces = {interfaces}\n")));
        };
        let mut node = TableMut::of(node).ok_or(EditError::Shape("node"))?;
        match node.value_mut("interfaces") {
            None => node.set("interfaces", Array::from_iter([name]).into()),
            Some(value) => {
                let listed = value.as_array_mut().ok_or(EditError::Shape("interfaces"))?;
                if listed.iter().any(|listed| listed.as_str() == Some(name)) {
                    return Err(EditError::InterfaceExists(name.to_owned()));
                }
                array::push(listed, name, "", false);
            }
        }
        Ok(self.text())
    }

    /// Removes an interface.
    pub(super) fn interface_remove(&mut self, name: &str) -> Result<(), EditError> {
        let mut names = Vec::new();
        if let Some(node) = self.toml.get_mut("node") {
            let mut node = TableMut::of(node).ok_or(EditError::Shape("node"))?;
            if let Some(value) = node.value_mut("interfaces") {
                let listed = value.as_array_mut().ok_or(EditError::Shape("interfaces"))?;
                if array::remove_where(listed, |listed| listed.as_str() == Some(name)) {
                    return Ok(());
                }
                names.extend(listed.iter().filter_map(|listed| listed.as_str().map(str::to_owned)));
            }
        }
        Err(EditError::UnknownInterface { name: name.to_owned(), near: table::near(name, &names) })
    }

    /// `text` and `lines`, with an empty line between.
    fn append(&self, text: &str, lines: &str) -> String {
        let lines = if self.crlf { lines.replace('\n', "\r\n") } else { lines.to_owned() };
        let newline = if self.crlf { "\r\n" } else { "\n" };
        let ends_line = if text.is_empty() || text.ends_with('\n') { "" } else { newline };
        let separator = if text.trim().is_empty() { "" } else { newline };
        [text, ends_line, separator, &lines].concat()
    }
}
