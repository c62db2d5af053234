//! Tables that fit the width of the terminal.

use std::fmt::Write as _;

use console::{Style, measure_text_width, pad_str, truncate_str};
use serde_json::Value;

use super::{screen::Screen, text};

/// Columns between two columns.
const GAP: usize = 2;

/// A column of a table.
pub struct Column {
    /// The heading.
    pub title: &'static str,
    /// The text of a cell.
    pub cell: fn(&Value) -> String,
    /// The columns that a cell keeps when the terminal is narrow.
    pub min: usize,
    /// Whether the cells are ids: never cut off, because they are copied. In a narrow terminal they get a line of their
    /// own. In a terminal that is narrower still, the last other columns are left out.
    pub id: bool,
}

/// A table that is written page by page. The first page decides the widths.
pub struct Table<'a> {
    screen: &'a Screen,
    columns: &'a [Column],
    layout: Option<Layout>,
}

struct Layout {
    /// The columns of each column; 0 for one that is left out.
    widths: Vec<usize>,
    /// Whether ids have a line of their own.
    id_below: bool,
}

impl<'a> Table<'a> {
    /// A table with these columns.
    pub fn new(screen: &'a Screen, columns: &'a [Column]) -> Self {
        Self { screen, columns, layout: None }
    }

    /// The lines of a page; the first page has a heading.
    pub fn page(&mut self, items: &[Value]) -> String {
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| self.columns.iter().map(|column| text::escape(&(column.cell)(item))).collect())
            .collect();
        let mut lines = String::new();
        if self.layout.is_none() {
            if rows.is_empty() {
                return lines;
            }
            let layout = self.arrange(&rows);
            let titles: Vec<_> = self.columns.iter().map(|column| column.title.to_owned()).collect();
            self.row(&mut lines, &titles, &layout, true);
            self.layout = Some(layout);
        }
        if let Some(layout) = &self.layout {
            for row in &rows {
                self.row(&mut lines, row, layout, false);
            }
        }
        lines
    }

    fn arrange(&self, rows: &[Vec<String>]) -> Layout {
        let widest = |at: usize| rows.iter().map(|row| measure_text_width(&row[at])).max().unwrap_or_default();
        let mut widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(at, column)| widest(at).max(column.title.len())).collect();
        let Some(width) = self.screen.width() else { return Layout { widths, id_below: false } };
        let needed = |widths: &[usize], id_below: bool| {
            let shown =
                self.columns.iter().zip(widths).filter(|(column, width)| !(id_below && column.id || **width == 0));
            let (count, sum) = shown.fold((0, 0), |(count, sum), (_, width)| (count + 1, sum + width));
            sum + GAP * (count.max(1) - 1)
        };
        let mut least: Vec<usize> = self
            .columns
            .iter()
            .zip(&widths)
            .map(|(column, width)| if column.id { *width } else { column.min.min(*width) })
            .collect();
        let id_below = needed(&least, false) > width;
        let others = self.columns.iter().enumerate().filter(|(_, column)| !column.id).map(|(at, _)| at).skip(1);
        for at in others.collect::<Vec<_>>().into_iter().rev() {
            if needed(&least, id_below) > width {
                (least[at], widths[at]) = (0, 0);
            }
        }
        // Cut off the widest column first, and none below its minimum while that is possible.
        while needed(&widths, id_below) > width {
            let cut = |bound: fn(&Column) -> usize| {
                let open =
                    self.columns.iter().enumerate().filter(|(at, column)| !column.id && widths[*at] > bound(column));
                open.max_by_key(|(at, _)| widths[*at]).map(|(at, _)| at)
            };
            let Some(at) = cut(|column| column.min).or_else(|| cut(|_| 1)) else { break };
            widths[at] -= 1;
        }
        Layout { widths, id_below }
    }

    fn row(&self, lines: &mut String, cells: &[String], layout: &Layout, heading: bool) {
        let mut line = String::new();
        let mut below = Vec::new();
        for ((column, cell), width) in self.columns.iter().zip(cells).zip(&layout.widths) {
            if column.id && layout.id_below {
                below.push(cell.as_str());
                continue;
            }
            if *width == 0 && !column.title.is_empty() {
                continue;
            }
            let cut = truncate_str(cell, *width, "…");
            let padded = pad_str(&cut, *width, console::Alignment::Left, None);
            let styled = if heading {
                self.screen.styled(&padded, Style::dim)
            } else {
                match cell.as_str() {
                    "active" | "VALID" | "delivered" => self.screen.styled(&padded, Style::green),
                    "revoked" | "failed" => self.screen.styled(&padded, Style::red),
                    "expired" | "pending" => self.screen.styled(&padded, Style::yellow),
                    _ => padded.into_owned(),
                }
            };
            let _ = write!(line, "{styled}{:GAP$}", "");
        }
        let _ = writeln!(lines, "{}", line.trim_end());
        if !heading && !below.is_empty() {
            let _ = writeln!(lines, "  {}", self.screen.styled(&below.join("  "), Style::dim));
        }
    }
}

/// Names and values below each other, for one object.
pub fn facts(screen: &Screen, pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut lines = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let name = pad_str(name, width, console::Alignment::Left, None);
        let _ = writeln!(lines, "{}{:GAP$}{}", screen.styled(&name, Style::dim), "", text::escape(value));
    }
    lines
}
