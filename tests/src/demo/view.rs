//! The live view: a table that is drawn over itself on a terminal, and printed once in a while elsewhere.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use lb_userspace::api::types::Vip;

use crate::load::Report;

/// Where there is no terminal, tables are this far apart.
const APART: Duration = Duration::from_secs(2);

/// One VIP now.
pub struct Row {
    /// The VIP.
    pub vip: Vip,
    /// What became of its requests since the beginning.
    pub report: Report,
}

/// The view. Remembers the last table, from which the rates follow.
pub struct View {
    terminal: bool,
    /// Lines of the table that the next one replaces.
    drawn: usize,
    printed: Option<Instant>,
    before: BTreeMap<String, (f64, BTreeMap<String, u64>)>,
}

impl View {
    /// A view on standard output.
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: 0, printed: None, before: BTreeMap::new() }
    }

    /// Shows `rows`, with a column for each of `backends`.
    pub fn show<'a>(&mut self, rows: Vec<Row>, backends: impl Iterator<Item = &'a str> + Clone) {
        let due = self.terminal || self.printed.is_none_or(|printed| printed.elapsed() >= APART);
        if !due {
            return;
        }
        self.printed = Some(Instant::now());
        let lines = self.table(rows, backends);
        if self.terminal {
            // Back to the first line of the table before, and over it (ECMA-48 CUU, EL).
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            let over: String = lines.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
            print!("{up}{over}");
            self.drawn = lines.len();
        } else {
            println!("{}", lines.join("\n"));
        }
    }

    /// Prints a line that stays.
    pub fn note(&mut self, text: &str) {
        self.settle();
        println!("{text}");
    }

    /// Leaves the table as it stands: what comes next goes below.
    pub fn settle(&mut self) {
        self.drawn = 0;
        self.printed = None;
    }

    fn table<'a>(&mut self, rows: Vec<Row>, backends: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
        let names: String = backends.clone().map(|name| format!("{name:>7}")).collect();
        let header = format!("   {:<7} {:<16} {:<5}{names} {:>8} {:>8}", "vip", "address", "mode", "retried", "failed");
        let mut lines = vec![header];
        for Row { vip, report } in rows {
            let (then, counted) = self.before.remove(&vip.name).unwrap_or_default();
            let seconds = (report.seconds - then).max(0.001);
            let rates: String = backends
                .clone()
                .map(|name| {
                    let count = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
                    let rate = (count(&report.backends) - count(&counted)) as f64 / seconds;
                    if rate == 0.0 { format!("{:>7}", "-") } else { format!("{rate:>7.0}") }
                })
                .collect();
            lines.push(format!(
                "   {:<7} {:<16} {:<5}{rates} {:>8} {:>8}",
                vip.name,
                vip.address.to_string(),
                vip.forward,
                report.retried.len(),
                report.failed.len()
            ));
            self.before.insert(vip.name, (report.seconds, report.backends));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use lb_userspace::model::Settings;

    use super::*;

    #[test]
    fn rates_are_those_since_the_last_table() {
        let mut view = View::new();
        let vip = Vip {
            name: "web".to_owned(),
            address: "203.0.113.10".parse().unwrap(),
            ports: vec!["tcp/80".to_owned()],
            forward: "l2".to_owned(),
            settings: Settings::default(),
            health: None,
            not_ready: None,
            backends: Vec::new(),
        };
        let mut row = |seconds, count| {
            let report = Report { seconds, backends: [("b1".to_owned(), count)].into(), ..Report::default() };
            let lines = view.table(vec![Row { vip: vip.clone(), report }], ["b1", "b2"].into_iter());
            lines[1].split_whitespace().skip(3).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row(2.0, 100), ["50", "-", "0", "0"]);
        assert_eq!(row(2.5, 200), ["200", "-", "0", "0"]);
        assert_eq!(row(3.0, 200), ["-", "-", "0", "0"]);
    }
}
