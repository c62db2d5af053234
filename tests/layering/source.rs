//! Reads which modules a source names: in `use` trees as well as in the middle of code.
//!
//! This is no Rust parser. It reads tokens, which is enough for paths: comments and literals are dropped, so that
//! nothing in them counts. A macro's body counts like any code; a path that a macro puts together does not.

use std::iter::Peekable;

/// A path as it is written, and the inline modules (`mod name { … }`) around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    pub inside: Vec<String>,
    pub segments: Vec<String>,
}

/// What a source contains.
#[derive(Debug, Default)]
pub struct Source {
    /// Every path of at least one segment in a `use`, or of at least two elsewhere.
    pub paths: Vec<NamedPath>,
    /// Modules in files of their own that are declared for tests only.
    pub test_modules: Vec<String>,
}

/// Whether code for tests (`#[cfg(test)]`) counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestCode {
    Counts,
    IsLeftOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Symbol(char),
}

impl Source {
    pub fn read(text: &str, test_code: TestCode) -> Self {
        let mut reader = Reader { tokens: tokens(text), at: 0, inside: Vec::new(), source: Self::default() };
        reader.read(test_code);
        reader.source
    }
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// The inline modules around this place; none for a block that is no module.
    inside: Vec<Option<String>>,
    source: Source,
}

impl Reader {
    fn read(&mut self, test_code: TestCode) {
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Symbol('#') if self.is_test_attribute() => {
                    self.skip_group();
                    if test_code == TestCode::IsLeftOut {
                        self.skip_item();
                    }
                }
                Token::Symbol('{') => {
                    self.inside.push(None);
                    self.at += 1;
                }
                Token::Symbol('}') => {
                    self.inside.pop();
                    self.at += 1;
                }
                Token::Word(word) if word == "mod" && self.symbol(2) == Some('{') => {
                    let name = self.word(1).map(str::to_owned);
                    self.inside.push(name);
                    self.at += 3;
                }
                Token::Word(word) if word == "use" => {
                    self.at += 1;
                    self.read_tree(&mut Vec::new());
                }
                // `pub(in path)` says who may see an item, and imports nothing.
                Token::Word(word) if word == "pub" && self.symbol(1) == Some('(') => {
                    self.at += 1;
                    self.skip_group();
                }
                Token::Word(_) => self.read_path(),
                Token::PathSeparator | Token::Symbol(_) => self.at += 1,
            }
        }
    }

    /// The tree of a `use`, up to the `;`, `,` or `}` after it.
    fn read_tree(&mut self, prefix: &mut Vec<String>) {
        let length = prefix.len();
        loop {
            match self.tokens.get(self.at) {
                Some(Token::Word(word)) if word == "as" => self.at += 2,
                Some(Token::Word(word)) => {
                    prefix.push(word.clone());
                    self.at += 1;
                }
                Some(Token::PathSeparator | Token::Symbol('*')) => self.at += 1,
                Some(Token::Symbol('{')) => {
                    self.at += 1;
                    while !matches!(self.tokens.get(self.at), Some(Token::Symbol('}')) | None) {
                        self.read_tree(prefix);
                        if self.symbol(0) == Some(',') {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    prefix.truncate(length);
                    return;
                }
                Some(Token::Symbol(_)) | None => break,
            }
        }
        self.add(prefix.clone());
        prefix.truncate(length);
    }

    /// A path in the middle of code; a lone word names no module.
    fn read_path(&mut self) {
        let mut segments = Vec::new();
        while let Some(word) = self.word(0) {
            segments.push(word.to_owned());
            self.at += 1;
            if self.tokens.get(self.at) != Some(&Token::PathSeparator) {
                break;
            }
            self.at += 1;
        }
        // `crate::name!` is a macro at the crate's root, not a module.
        if segments.len() > 1 && !(segments.len() == 2 && self.symbol(0) == Some('!')) {
            self.add(segments);
        }
    }

    fn add(&mut self, segments: Vec<String>) {
        let inside = self.inside.iter().flatten().cloned().collect();
        self.source.paths.push(NamedPath { inside, segments });
    }

    /// Whether `#[cfg(…test…)]` is here, unless it is `not(test)`.
    fn is_test_attribute(&self) -> bool {
        let end = self.tokens[self.at..].iter().position(|token| *token == Token::Symbol(']'));
        let attribute = &self.tokens[self.at..self.at + end.unwrap_or(0)];
        let has = |name: &str| attribute.iter().any(|token| matches!(token, Token::Word(word) if word == name));
        has("cfg") && has("test") && !has("not")
    }

    /// Goes behind the next group in brackets.
    fn skip_group(&mut self) {
        let mut depth = 0;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token {
                Token::Symbol('(' | '[' | '{') => depth += 1,
                Token::Symbol(')' | ']' | '}') => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    /// Goes behind the item that an attribute is of.
    fn skip_item(&mut self) {
        while let Some(token) = self.tokens.get(self.at) {
            match token {
                Token::Word(word) if word == "mod" && self.symbol(2) == Some(';') => {
                    self.source.test_modules.extend(self.word(1).map(str::to_owned));
                    self.at += 3;
                    return;
                }
                Token::Symbol('{') => return self.skip_group(),
                Token::Symbol('(' | '[') => self.skip_group(),
                Token::Symbol(';') => {
                    self.at += 1;
                    return;
                }
                // A field or a variant ends with a comma, the last one with the brace around it.
                Token::Symbol(',' | '}') => return,
                _ => self.at += 1,
            }
        }
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        match self.tokens.get(self.at + ahead)? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    fn symbol(&self, ahead: usize) -> Option<char> {
        match self.tokens.get(self.at + ahead)? {
            Token::Symbol(symbol) => Some(*symbol),
            _ => None,
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.next_if_eq(&'/').is_some() => while rest.next_if(|c| *c != '\n').is_some() {},
            '/' if rest.next_if_eq(&'*').is_some() => skip_comment(&mut rest),
            '"' => skip_text(&mut rest),
            '\'' => skip_character(&mut rest),
            ':' if rest.next_if_eq(&':').is_some() => tokens.push(Token::PathSeparator),
            c if is_of_word(c) => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| is_of_word(*c)) {
                    word.push(c);
                }
                let prefix = matches!(word.as_str(), "r" | "br" | "cr");
                match rest.peek().copied() {
                    Some('"') if prefix => skip_raw_text(&mut rest),
                    // `r#"` begins a raw text; `r#type` is a word.
                    Some('#') if prefix && begins_raw_text(&rest) => skip_raw_text(&mut rest),
                    _ => tokens.push(Token::Word(word)),
                }
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Symbol(c)),
        }
    }
    tokens
}

type Chars<'a> = Peekable<std::str::Chars<'a>>;

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Block comments nest.
fn skip_comment(rest: &mut Chars<'_>) {
    let mut depth = 1;
    while depth > 0 {
        match rest.next() {
            Some('*') if rest.next_if_eq(&'/').is_some() => depth -= 1,
            Some('/') if rest.next_if_eq(&'*').is_some() => depth += 1,
            Some(_) => {}
            None => return,
        }
    }
}

fn skip_text(rest: &mut Chars<'_>) {
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '"' => return,
            _ => {}
        }
    }
}

fn begins_raw_text(rest: &Chars<'_>) -> bool {
    rest.clone().find(|c| *c != '#') == Some('"')
}

fn skip_raw_text(rest: &mut Chars<'_>) {
    let hashes = std::iter::from_fn(|| rest.next_if_eq(&'#')).count();
    rest.next();
    while let Some(c) = rest.next() {
        if c == '"' && (0..hashes).all(|_| rest.next_if_eq(&'#').is_some()) {
            return;
        }
    }
}

/// A character literal; of a lifetime only the apostrophe.
fn skip_character(rest: &mut Chars<'_>) {
    let mut ahead = rest.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            rest.next();
            rest.next();
            while rest.next().is_some_and(|c| c != '\'') {}
        }
        (Some(_), Some('\'')) => drop((rest.next(), rest.next())),
        _ => {}
    }
}
