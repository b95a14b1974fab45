//! A VIP, a backend or the node as a table of a TOML document, in either of the ways to write one.

use std::{cmp::Ordering, net::IpAddr};

use toml_edit::{Array, ArrayOfTables, InlineTable, Item, RawString, Table, Value};

use super::{BackendHealthEdit, EditError, HealthEdit, NewBackend, NewVip, VipValues, array};
use crate::model::{
    KeyValue, Port, Word,
    keys::{Key, Scalar, Visit},
};

/// A table that can be changed in place.
pub(super) enum TableMut<'d> {
    /// With a header, and a line per key.
    Lines(&'d mut Table),
    /// In braces.
    Inline(&'d mut InlineTable),
}

impl<'d> TableMut<'d> {
    /// The table that an item is, if it is one.
    pub(super) fn of(item: &'d mut Item) -> Option<Self> {
        match item {
            Item::Table(table) => Some(Self::Lines(table)),
            Item::Value(Value::InlineTable(table)) => Some(Self::Inline(table)),
            _ => None,
        }
    }

    /// The string at `key`.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self {
            Self::Lines(table) => table.get(key)?.as_str(),
            Self::Inline(table) => table.get(key)?.as_str(),
        }
    }

    /// Sets `key` to `value`, if there is one.
    pub(super) fn set_some(&mut self, key: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value.into());
        }
    }

    /// The value at `key`.
    pub(super) fn value_mut(&mut self, key: &str) -> Option<&mut Value> {
        match self {
            Self::Lines(table) => table.get_mut(key)?.as_value_mut(),
            Self::Inline(table) => table.get_mut(key),
        }
    }

    /// Sets `key` to `value`; a comment behind the old value stays.
    pub(super) fn set(&mut self, key: &str, mut value: Value) {
        if let Some(old) = self.value_mut(key) {
            *value.decor_mut() = old.decor().clone();
            *old = value;
            return;
        }
        match self {
            Self::Lines(table) => insert_line(table, key, value),
            Self::Inline(table) => insert_inline(table, key, value),
        }
    }

    /// Takes `key` out, if it is there.
    pub(super) fn unset(&mut self, key: &str) {
        match self {
            Self::Lines(table) => drop(table.remove(key)),
            Self::Inline(table) => {
                let Some(removed) = table.remove(key) else { return };
                // What stood before the closing brace, or before the comma behind the last value.
                let is_last = removed.decor().suffix().is_some();
                if let Some((_, last)) = table.iter_mut().last().filter(|_| is_last)
                    && let Some(end) = removed.decor().suffix()
                    && last.decor().suffix().and_then(RawString::as_str).unwrap_or_default().is_empty()
                {
                    last.decor_mut().set_suffix(end.clone());
                }
            }
        }
    }

    /// Sets what `values` has a value for, in a VIP.
    pub(super) fn set_values(&mut self, values: &VipValues) -> Result<(), EditError> {
        if *values == (VipValues { name: values.name.clone(), ..VipValues::default() }) {
            return Err(EditError::NothingToSet);
        }
        let VipValues { name, address, ports, forward, health, given, rest: _ } = values;
        self.set_some("address", address.map(|address| address.to_string()));
        self.set_some("forward", forward.map(Word::word));
        given.visit(self);
        if let Some(health) = health {
            if !health.is_whole() && self.table("health").is_none() {
                return Err(EditError::NoHealth(name.clone()));
            }
            self.set_health(health);
        }
        match ports {
            Some(ports) => self.set_ports(ports),
            None => Ok(()),
        }
    }

    /// Makes `health` what is said of it, in place where keys stay.
    pub(super) fn set_health(&mut self, health: &HealthEdit) {
        let keys = match health {
            HealthEdit::None => return self.set_over_table("health", health.value()),
            HealthEdit::Keys(keys) => keys,
        };
        let Some(mut table) = self.table("health") else {
            return self.set_over_table("health", health.value());
        };
        if health.is_whole() {
            for key in table.keys().into_iter().filter(|key| !keys.contains_key(key)) {
                table.unset(&key);
            }
        }
        for (key, value) in HealthEdit::in_order(keys) {
            // As it is written, where it says the same.
            if table.value_mut(key).is_none_or(|old| !is_same(old, &value)) {
                table.set(key, value);
            }
        }
    }

    /// Sets `key`, be there a table of that name with a header of its own.
    fn set_over_table(&mut self, key: &str, value: Value) {
        if self.value_mut(key).is_none() {
            self.unset(key);
        }
        if self.value_mut(key).is_none_or(|old| !is_same(old, &value)) {
            self.set(key, value);
        }
    }

    /// The table at `key`, if there is one.
    fn table(&mut self, key: &str) -> Option<TableMut<'_>> {
        self.item_mut(key).and_then(TableMut::of)
    }

    fn keys(&self) -> Vec<String> {
        match self {
            Self::Lines(table) => table.iter().map(|(key, _)| key.to_owned()).collect(),
            Self::Inline(table) => table.iter().map(|(key, _)| key.to_owned()).collect(),
        }
    }

    /// Makes `ports` the ports, keeping the place of those that stay.
    fn set_ports(&mut self, ports: &[Port]) -> Result<(), EditError> {
        let wanted: Vec<String> = ports.iter().map(Port::to_string).collect();
        let Some(value) = self.value_mut("ports") else {
            self.set("ports", wanted.into_iter().collect::<Array>().into());
            return Ok(());
        };
        let listed = value.as_array_mut().ok_or(EditError::Shape("ports"))?;
        let text = |listed: &Array, index: usize| listed.get(index).and_then(Value::as_str).map(str::to_owned);
        for port in &wanted {
            if !(0..listed.len()).any(|index| text(listed, index).as_ref() == Some(port)) {
                array::push(listed, port.as_str(), "", false);
            }
        }
        for index in (0..listed.len()).rev() {
            if text(listed, index).is_none_or(|port| !wanted.contains(&port)) {
                array::remove(listed, index);
            }
        }
        Ok(())
    }

    /// The backend of that address.
    pub(super) fn backend(&mut self, vip: &str, address: IpAddr) -> Result<TableMut<'_>, EditError> {
        let mut addresses = Vec::new();
        for backend in self.backends()? {
            if let Some(text) = backend.text("address") {
                if is_address(text, address) {
                    return Ok(backend);
                }
                addresses.push(text.to_owned());
            }
        }
        let near = near(&address.to_string(), &addresses);
        Err(EditError::UnknownBackend { vip: vip.to_owned(), address, near })
    }

    /// Adds a backend behind the others.
    pub(super) fn backend_add(&mut self, vip: &str, backend: &NewBackend) -> Result<(), EditError> {
        if self.backend_index(backend.address)?.is_some() {
            return Err(EditError::BackendExists { vip: vip.to_owned(), address: backend.address });
        }
        let indent = self.indent();
        if matches!(self.item_mut("backends"), None | Some(Item::None)) {
            self.set("backends", Array::new().into());
        }
        let own_line = matches!(self, Self::Lines(_));
        match self.item_mut("backends") {
            Some(Item::Value(Value::Array(listed))) => array::push(listed, inline_backend(backend), &indent, own_line),
            Some(Item::ArrayOfTables(tables)) => push_table(tables, backend),
            _ => return Err(EditError::Shape("backends")),
        }
        Ok(())
    }

    /// Removes the backend of that address.
    pub(super) fn backend_remove(&mut self, vip: &str, address: IpAddr) -> Result<(), EditError> {
        let Some(index) = self.backend_index(address)? else {
            return self.backend(vip, address).map(|_| ());
        };
        match self.item_mut("backends") {
            Some(Item::Value(Value::Array(listed))) => array::remove(listed, index),
            Some(Item::ArrayOfTables(tables)) => {
                tables.remove(index);
            }
            _ => return Err(EditError::Shape("backends")),
        }
        Ok(())
    }

    fn backend_index(&mut self, address: IpAddr) -> Result<Option<usize>, EditError> {
        let same = |backend: &TableMut<'_>| backend.text("address").is_some_and(|text| is_address(text, address));
        Ok(self.backends()?.iter().position(same))
    }

    fn backends(&mut self) -> Result<Vec<TableMut<'_>>, EditError> {
        match self.item_mut("backends") {
            None => Ok(Vec::new()),
            Some(item) => list(item).ok_or(EditError::Shape("backends")),
        }
    }

    fn item_mut(&mut self, key: &str) -> Option<&mut Item> {
        match self {
            Self::Lines(table) => table.get_mut(key),
            Self::Inline(table) => toml_edit::TableLike::get_mut(*table, key),
        }
    }

    /// The indentation of the keys.
    fn indent(&self) -> String {
        match self {
            Self::Lines(table) => line_indent(table),
            Self::Inline(_) => String::new(),
        }
    }
}

/// The tables of an array, in either of the ways to write one; `None` where the item is no such array.
pub(super) fn list(item: &mut Item) -> Option<Vec<TableMut<'_>>> {
    match item {
        Item::None => Some(Vec::new()),
        Item::ArrayOfTables(tables) => Some(tables.iter_mut().map(TableMut::Lines).collect()),
        Item::Value(Value::Array(listed)) => {
            listed.iter_mut().map(|value| value.as_inline_table_mut().map(TableMut::Inline)).collect()
        }
        _ => None,
    }
}

/// Those of `known` that `text` may be a misspelling of.
pub(super) fn near(text: &str, known: &[String]) -> Vec<String> {
    let near = crate::model::suggest::near(text, known.iter().map(String::as_str));
    near.into_iter().map(str::to_owned).collect()
}

/// A new VIP; what is `None` is left to its default.
pub(super) fn vip(vip: &NewVip) -> Table {
    let NewVip { name, address, ports, forward, health, given, backends, rest: _ } = vip;
    let mut listed = Array::new();
    for backend in backends {
        array::push(&mut listed, inline_backend(backend), "", true);
    }
    let mut table = Table::new();
    table.insert("name", name.into());
    table.insert("address", address.to_string().into());
    table.insert("ports", Item::Value(ports.iter().map(Port::to_string).collect::<Array>().into()));
    table.insert("forward", forward.word().into());
    given.visit(&mut TableMut::Lines(&mut table));
    table.extend(health.as_ref().map(|health| ("health", Item::Value(health.value()))));
    table.insert("backends", Item::Value(listed.into()));
    table
}

/// Sets what was given.
impl Visit for TableMut<'_> {
    fn key<T: KeyValue>(&mut self, key: &'static Key, value: &Option<T>) {
        self.set_some(key.name, value.as_ref().map(|value| toml_value(&value.scalar())));
    }
}

pub(super) fn toml_value(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Text(text) => text.as_str().into(),
        // As it is written: a mark is hexadecimal.
        Scalar::Integer(_, text) => text.parse().expect("a number is a TOML value"),
        Scalar::Boolean(boolean) => (*boolean).into(),
        Scalar::Other => unreachable!("no value of a key is anything else"),
    }
}

/// Whether both say the same, however it is written.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.value() == b.value(),
        (Value::Integer(a), Value::Integer(b)) => a.value() == b.value(),
        (Value::Boolean(a), Value::Boolean(b)) => a.value() == b.value(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        _ => false,
    }
}

/// Whether `text` is that address, in whatever spelling.
fn is_address(text: &str, address: IpAddr) -> bool {
    text.parse() == Ok(address)
}

fn backend_values(backend: &NewBackend) -> Vec<(&'static str, Value)> {
    let NewBackend { address, weight, state, mac, mtu, health } = backend;
    let mut values = vec![("address", Value::from(address.to_string()))];
    values.extend(weight.map(|weight| ("weight", i64::from(weight).into())));
    values.extend(state.map(|state| ("state", state.word().into())));
    values.extend(mac.map(|mac| ("mac", mac.to_string().into())));
    values.extend(mtu.map(|mtu| ("mtu", toml_value(&mtu.scalar()))));
    if let Some(BackendHealthEdit::Own(health)) = health {
        values.push(("health", health.value()));
    }
    values
}

fn inline_backend(backend: &NewBackend) -> InlineTable {
    backend_values(backend).into_iter().collect()
}

/// Appends a table that looks like the last one.
fn push_table(tables: &mut ArrayOfTables, backend: &NewBackend) {
    let last = tables.iter().last();
    let header = last.map(|table| indent_of(table.decor().prefix()).to_owned()).unwrap_or_default();
    let keys = last.map(line_indent).unwrap_or_default();
    let separate =
        last.and_then(|table| table.decor().prefix()?.as_str()).is_none_or(|prefix| prefix.starts_with('\n'));
    let mut table = Table::new();
    table.decor_mut().set_prefix(format!("{}{header}", if separate { "\n" } else { "" }));
    for (key, value) in backend_values(backend) {
        table.insert(key, Item::Value(value));
        if let Some(mut key) = table.key_mut(key) {
            key.leaf_decor_mut().set_prefix(keys.as_str());
        }
    }
    tables.push(table);
}

/// Inserts a key on a line of its own: before `backends`, which reads best as the last one.
fn insert_line(table: &mut Table, key: &str, value: Value) {
    let mut order: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    let indent = line_indent(table);
    table.insert(key, Item::Value(value));
    if let Some(mut key) = table.key_mut(key) {
        key.leaf_decor_mut().set_prefix(indent);
    }
    let place = order.iter().position(|key| key == "backends").unwrap_or(order.len());
    order.insert(place, key.to_owned());
    let place = |key: &str| order.iter().position(|known| known == key);
    table.sort_values_by(|left, _, right, _| match (place(left.get()), place(right.get())) {
        (Some(left), Some(right)) => left.cmp(&right),
        _ => Ordering::Equal,
    });
}

/// Inserts a key behind the others; what stood before the closing brace stays there.
fn insert_inline(table: &mut InlineTable, key: &str, mut value: Value) {
    let last = table.iter_mut().last();
    let end = last.and_then(|(_, last)| {
        let end = last.decor().suffix().and_then(RawString::as_str).map(str::to_owned);
        last.decor_mut().set_suffix("");
        end
    });
    value.decor_mut().set_prefix(" ");
    value.decor_mut().set_suffix(end.unwrap_or_else(|| " ".to_owned()));
    if table.trailing_comma() {
        value.decor_mut().set_suffix("");
    }
    table.insert(key, value);
}

fn line_indent(table: &Table) -> String {
    let first = table.iter().next().and_then(|(key, _)| table.key(key));
    indent_of(first.and_then(|key| key.leaf_decor().prefix())).to_owned()
}

fn indent_of(prefix: Option<&RawString>) -> &str {
    let prefix = prefix.and_then(RawString::as_str).unwrap_or_default();
    prefix.rsplit('\n').next().unwrap_or_default()
}
