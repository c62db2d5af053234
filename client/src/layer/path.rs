//! Paths as route patterns see them.

use std::borrow::Cow;

/// The path with the letters decoded that are percent-encoded for no reason; none if two readers of it could disagree:
/// one of its segments is `.` or `..` or empty, or it has a `\`, an encoded `/`, `\`, `.` or NUL, or an invalid escape.
pub(super) fn plain(path: &str) -> Option<Cow<'_, str>> {
    if path.contains("//") || path.contains('\\') || !path.starts_with('/') {
        return None;
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return None;
    }
    if !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escape)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = escape.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        match byte {
            b'/' | b'\\' | b'.' | 0 => return None,
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') => {
                decoded.push(char::from(byte));
            }
            _ => {
                decoded.push('%');
                decoded.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = &escape[2..];
    }
    decoded.push_str(rest);
    Some(Cow::Owned(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for path in [
            "",
            "x",
            "//",
            "/a//b",
            "/a/./b",
            "/a/..",
            "/../a",
            "/.",
            "/a\\b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5c",
            "/%2e%2e/a",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
        ] {
            assert_eq!(plain(path), None, "{path}");
        }
    }

    #[test]
    fn letters_are_decoded_and_all_else_stays() {
        for (path, expected) in [
            ("/", "/"),
            ("/api/build", "/api/build"),
            ("/%61pi/b%75ild", "/api/build"),
            ("/a%20b%c3%a4", "/a%20b%C3%A4"),
            ("/a.b/...", "/a.b/..."),
        ] {
            assert_eq!(plain(path).as_deref(), Some(expected), "{path}");
        }
    }
}
