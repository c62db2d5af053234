//! Patterns of paths.

use std::fmt;

use super::path::Segments;

/// A pattern of paths: exact, or with `/*` at its end this path and everything below it. `{name}` stands for one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    /// Whether everything below the path matches, too.
    below: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    /// Any segment that is not empty.
    Any,
}

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(relative) = text.strip_prefix('/') else { return Err("must begin with \"/\"") };
        let (exact, below) = match relative.strip_suffix('*') {
            Some("") => (None, true),
            Some(above) => match above.strip_suffix('/') {
                Some(exact) => (Some(exact), true),
                None => return Err("may have \"*\" only as its last segment"),
            },
            None => (Some(relative), false),
        };
        let segments = exact.into_iter().flat_map(|exact| exact.split('/')).map(segment);
        Ok(Self { text: text.to_owned(), segments: segments.collect::<Result<_, _>>()?, below })
    }

    /// Why the pattern matches no path, or none that was probably intended; none if it may.
    pub fn never_matches(&self) -> Option<&'static str> {
        if self.text.contains(['?', '#']) {
            return Some("holds \"?\" or \"#\", and what follows these is no part of the path");
        }
        if self.text.contains('%') {
            return Some("holds \"%\", and is compared with the decoded path");
        }
        let last = self.segments.len().saturating_sub(usize::from(!self.below));
        let refused = self.segments.iter().enumerate().any(|(at, segment)| match segment {
            Segment::Any => false,
            Segment::Text(text) => {
                let name = text.split(';').next().unwrap_or_default();
                matches!(name, "." | "..") || text.contains('\\') || (text.is_empty() && at < last)
            }
        });
        refused.then_some("is a path that is always refused as ambiguous")
    }

    /// Whether a path fits.
    pub(super) fn matches(&self, path: &Segments<'_>) -> bool {
        let segments = path.iter();
        let length =
            if self.below { segments.len() >= self.segments.len() } else { segments.len() == self.segments.len() };
        length && self.segments.iter().zip(segments).all(|(own, given)| own.fits(given))
    }

    /// Whether every path that fits `other` fits this pattern.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let length = if self.below {
            other.segments.len() >= self.segments.len()
        } else {
            !other.below && other.segments.len() == self.segments.len()
        };
        length && self.segments.iter().zip(&other.segments).all(|(own, others)| own.covers(others))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn segment(text: &str) -> Result<Segment, &'static str> {
    let named = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    match named {
        Some("") => Err("has a \"{}\" without a name"),
        Some(name) if !name.contains(['{', '}', '*']) => Ok(Segment::Any),
        None if !text.contains(['{', '}', '*']) => Ok(Segment::Text(text.to_owned())),
        _ => Err("may have \"{name}\" only as a whole segment, and \"*\" only as the last one"),
    }
}

impl Segment {
    fn fits(&self, given: &str) -> bool {
        match self {
            Self::Text(text) => text == given,
            Self::Any => !given.is_empty(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(own), Self::Text(other)) => own == other,
            (Self::Text(_), Self::Any) => false,
            (Self::Any, Self::Text(other)) => !other.is_empty(),
            (Self::Any, Self::Any) => true,
        }
    }
}
