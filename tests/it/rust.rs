//! As much reading of Rust source as the layer check needs: tokens without comments and strings, and the paths they
//! form, with `use` groups spread out. Not a parser: it knows nothing of types, and nothing of macros it is not shown.

/// One token and the line it stands on (from 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

/// A path such as `crate::wire::frame`, as its segments; a glob ends in `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Path<'a> {
    pub(crate) line: usize,
    pub(crate) segments: Vec<&'a str>,
}

/// Identifiers, `::`, and single characters for everything else; comments and literals are left out.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut found = Vec::new();
    while at < bytes.len() {
        let rest = &source[at..];
        let skipped = match bytes[at] {
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => block_comment(rest),
            b'"' => string(rest),
            b'r' | b'b' | b'c' if raw_string(rest).is_some() => raw_string(rest).unwrap(),
            b'\'' => character(rest),
            b'\n' | b' ' | b'\t' | b'\r' => 1,
            b':' if rest.starts_with("::") => {
                found.push(Token { line, text: &rest[..2] });
                2
            }
            b if is_word(b) => {
                let end = rest.bytes().position(|b| !is_word(b)).unwrap_or(rest.len());
                found.push(Token { line, text: rest[..end].trim_start_matches("r#") });
                end
            }
            _ => {
                let end = rest.chars().next().unwrap().len_utf8();
                found.push(Token { line, text: &rest[..end] });
                end
            }
        };
        line += rest[..skipped].matches('\n').count();
        at += skipped;
    }
    found
}

/// Every path in `tokens`, longest form, groups spread out: `a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(crate) fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 0 && tokens[at - 1].text == "::";
        if is_identifier(tokens[at].text) && !continues {
            at = path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// `tokens` without the modules that are compiled for tests only (`#[cfg(test)] mod name { ... }`).
pub(crate) fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if starts_with(&tokens[at..], &cfg_test) {
            at = end_of_item(tokens, at + cfg_test.len());
        } else {
            kept.push(tokens[at]);
            at += 1;
        }
    }
    kept
}

/// Where the item that starts at `at` ends: behind its closing brace, or behind its semicolon.
fn end_of_item(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut depth = 0usize;
    while at < tokens.len() {
        match tokens[at].text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && tokens[at].text == "}" {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn path<'a>(tokens: &[Token<'a>], mut at: usize, prefix: &[&'a str], found: &mut Vec<Path<'a>>) -> usize {
    let line = tokens[at].line;
    let mut segments = prefix.to_vec();
    segments.push(tokens[at].text);
    at += 1;
    while tokens.get(at).is_some_and(|t| t.text == "::") {
        match tokens.get(at + 1).map(|t| t.text) {
            Some("{") => return group(tokens, at + 2, &segments, found),
            Some("*") => {
                segments.push("*");
                at += 2;
                break;
            }
            Some(name) if is_identifier(name) => {
                segments.push(name);
                at += 2;
            }
            _ => break, // turbofish, or the end
        }
    }
    found.push(Path { line, segments });
    at
}

fn group<'a>(tokens: &[Token<'a>], mut at: usize, prefix: &[&'a str], found: &mut Vec<Path<'a>>) -> usize {
    while at < tokens.len() {
        match tokens[at].text {
            "}" => return at + 1,
            "*" => {
                let segments = prefix.iter().copied().chain(["*"]).collect();
                found.push(Path { line: tokens[at].line, segments });
                at += 1;
            }
            "as" => at += 2,
            text if is_identifier(text) => at = path(tokens, at, prefix, found),
            _ => at += 1,
        }
    }
    at
}

fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
}

fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0usize);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().unwrap().len_utf8();
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of `r"..."`, `r#"..."#`, `b"..."`, `br"..."`, `c"..."` at the front, if one stands there.
fn raw_string(rest: &str) -> Option<usize> {
    let word = rest.bytes().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    let hashes = rest[word..].bytes().take_while(|b| *b == b'#').count();
    if word > 2 || rest.as_bytes().get(word + hashes) != Some(&b'"') {
        return None;
    }
    if !rest[..word].contains('r') {
        return (hashes == 0).then(|| word + string(&rest[word..]));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = word + hashes + 1;
    Some(rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()))
}

/// Length of a character literal, or 1 for the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => chars.skip(1).find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|t| t.text).collect()
    }

    fn spread(source: &str) -> Vec<String> {
        paths(&tokens(source)).into_iter().map(|p| p.segments.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_hide_what_they_contain() {
        assert_eq!(words("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words(r##"a "b \" c" d r#"e " f"# g b"h" br"i\" j"##), ["a", "d", "g", "j"]);
        assert_eq!(words(r"a 'b' c '\'' d '\u{1f}' e"), ["a", "c", "d", "e"]);
        assert_eq!(words("fn f<'a>(x: &'a str)"), ["fn", "f", "<", "a", ">", "(", "x", ":", "&", "a", "str", ")"]);
        assert_eq!(words("/* never closed"), [""; 0]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let lines: Vec<_> = tokens("a\n/*\n*/ b \"\n\n\" c\n").into_iter().map(|t| (t.text, t.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 3), ("c", 5)]);
    }

    #[test]
    fn groups_are_spread_out_and_renames_left_away() {
        assert_eq!(spread("use crate::wire::frame;"), ["use", "crate::wire::frame"]);
        assert_eq!(
            spread("use crate::{wire::{frame::{self, Frame}, code as c}, engine, sched::*};"),
            [
                "use",
                "crate::wire::frame::self",
                "crate::wire::frame::Frame",
                "crate::wire::code",
                "crate::engine",
                "crate::sched::*"
            ]
        );
        assert_eq!(spread("a::b::<c::d>()"), ["a::b", "c::d"]);
    }

    #[test]
    fn modules_for_tests_are_cut_out_and_what_follows_is_kept() {
        let source = "a; #[cfg(test)] mod tests { fn b() { c(); } } d; #[cfg(test)] mod e; f; #[cfg(test)] #[x(y)] fn g(h: I) { j } k";
        let kept: Vec<_> = without_tests(&tokens(source)).into_iter().map(|t| t.text).collect();
        assert_eq!(kept, ["a", ";", "d", ";", "f", ";", "k"]);
    }
}
