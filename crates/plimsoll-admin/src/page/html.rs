//! Writes HTML. Text can only come in by [`Html::text`] and [`Html::name`], which escape it.

use plimsoll_core::Name;
use std::fmt::{self, Display, Write as _};

/// HTML that grows.
#[derive(Debug, Default)]
pub(super) struct Html(String);

/// Takes text, and makes it such that it ends no tag, no attribute and no element.
struct Escaped<'a>(&'a mut String);

/// A number with its digits in threes.
#[derive(Clone, Copy)]
pub(super) struct Count(pub(super) u64);

/// What may not be known, or not be there.
#[derive(Clone, Copy)]
pub(super) struct Known<T>(pub(super) Option<T>);

impl Html {
    /// Writes what is part of the program.
    pub(super) fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Writes text between tags, or between quotes within one; sizes with [a digit more](plimsoll_memory::show::Size).
    pub(super) fn text(&mut self, text: impl Display) {
        // Nothing that is written here fails.
        let _ = write!(Escaped(&mut self.0), "{text:#}");
    }

    /// Writes a name that was chosen elsewhere, and no more of it than a name is long. The direction
    /// that it is written in is its own.
    pub(super) fn name(&mut self, name: &str) {
        let cut = floor_char_boundary(name, Name::MAX_LEN);
        self.markup("<bdi>");
        self.text(cut);
        if cut.len() < name.len() {
            self.markup("…");
        }
        self.markup("</bdi>");
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// The beginning of a text, of so many bytes at the most.
pub(super) fn floor_char_boundary(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&#34;"),
                '\'' => self.0.push_str("&#39;"),
                // HTML has no place for them.
                control if control.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                // They show what comes after them backwards, so that a name looks like another.
                '\u{61c}'
                | '\u{200e}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}' => {
                    self.0.push(char::REPLACEMENT_CHARACTER);
                }
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let (first, rest) = digits.split_at(match digits.len() % 3 {
            0 => 3,
            first => first,
        });
        f.write_str(first)?;
        for place in (0..rest.len()).step_by(3) {
            // A narrow space at which no line ends.
            write!(f, "\u{202f}{}", &rest[place..place + 3])?;
        }
        Ok(())
    }
}

impl<T: Display> Display for Known<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(known) => known.fmt(f),
            None => f.write_str("–"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Html)) -> String {
        let mut html = Html::default();
        write(&mut html);
        html.into_string()
    }

    #[test]
    fn text_ends_no_tag_no_attribute_and_no_element() {
        let hostile = r#"</title><script>alert('1' & "2")</script>"#;
        assert_eq!(
            written(|html| html.text(hostile)),
            "&lt;/title&gt;&lt;script&gt;alert(&#39;1&#39; &amp; &#34;2&#34;)&lt;/script&gt;"
        );
        assert_eq!(
            written(|html| html.text("a\0b\x1b\u{85}é")),
            "a\u{fffd}b\u{fffd}\u{fffd}é"
        );
    }

    #[test]
    fn text_cannot_turn_its_direction_and_look_like_another() {
        for turn in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}".chars() {
            let name = format!("/{turn}gpj.exe");
            assert_eq!(written(|html| html.text(&name)), "/\u{fffd}gpj.exe");
        }
        let plain = "/مرحبا/👩\u{200d}🚀";
        assert_eq!(written(|html| html.text(plain)), plain);
    }

    #[test]
    fn names_are_cut_where_a_name_ends() {
        assert_eq!(written(|html| html.name("/a<b")), "<bdi>/a&lt;b</bdi>");
        let long = "é".repeat(100);
        let cut = format!("<bdi>{}…</bdi>", "é".repeat(64));
        assert_eq!(written(|html| html.name(&long)), cut);
    }

    #[test]
    fn counts_are_in_threes_and_what_is_not_known_is_a_dash() {
        for (count, shown) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1\u{202f}000"),
            (12_345_678, "12\u{202f}345\u{202f}678"),
        ] {
            assert_eq!(Count(count).to_string(), shown);
        }
        assert_eq!(Known(Some(3)).to_string(), "3");
        assert_eq!(Known::<u64>(None).to_string(), "–");
    }
}
