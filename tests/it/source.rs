//! The program's own source, as far as the rules of tidy.rs need to understand it: tokens, the tree
//! of modules with their order, and which file uses which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Word,
    Sign,
    /// A string, a character or a number.
    Literal,
}

#[derive(Debug, Clone)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    /// Counted from 1, as compilers do.
    pub line: usize,
    /// Inside an item that only tests compile.
    pub is_test: bool,
}

impl Token {
    pub fn is(&self, text: &str) -> bool {
        self.kind != Kind::Literal && self.text == text
    }
}

/// One file of `src/`.
#[derive(Debug)]
pub struct File {
    /// Such as `src/http/listener.rs`.
    pub path: String,
    pub text: String,
    /// Without comments.
    pub tokens: Vec<Token>,
    /// Such as `["http", "listener"]`; empty for lib.rs.
    pub module: Vec<String>,
    /// The modules that it declares as files, in order.
    pub children: Vec<String>,
    /// `use` declarations: the name that each brings, and the path that it stands for.
    uses: Vec<Use>,
    /// What it defines itself: functions, types, constants, modules.
    defined: BTreeSet<String>,
}

#[derive(Debug)]
struct Use {
    name: String,
    path: Vec<String>,
    line: usize,
    is_test: bool,
    /// How many `mod name { … }` it stands in.
    depth: usize,
}

/// One file uses another: `name` is how it names what it uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    pub from: Vec<String>,
    pub to: Vec<String>,
    pub name: String,
    pub line: usize,
    pub is_test: bool,
}

pub struct Tree {
    /// By module; without main.rs, which is another crate.
    files: BTreeMap<Vec<String>, File>,
    pub arrows: Vec<Arrow>,
}

/// Every file of `src/`.
pub fn files() -> Vec<File> {
    files_under("src")
}

pub fn files_under(root: &str) -> Vec<File> {
    fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    visit(Path::new(root), &mut paths);
    paths.sort();
    assert!(paths.len() > 10);
    let read =
        |path: &PathBuf| File::new(path.to_str().unwrap(), &fs::read_to_string(path).unwrap());
    paths.iter().map(read).collect()
}

impl File {
    pub fn new(path: &str, text: &str) -> File {
        let mut tokens = tokens(text);
        mark_tests(&mut tokens);
        let module = module(path);
        let (children, defined) = (children(&tokens), defined(&tokens));
        let uses = uses(&tokens);
        let (path, text) = (path.to_owned(), text.to_owned());
        File { path, text, tokens, module, children, uses, defined }
    }

    /// Name, first line and number of lines of every function with a body.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            let Some(name) = self.tokens.get(at + 1) else { continue };
            if !token.is("fn") || name.kind != Kind::Word {
                continue;
            }
            let mut depth = 0;
            let body = self.tokens[at..].iter().position(|token| {
                depth += i32::from(token.is("(") || token.is("["));
                depth -= i32::from(token.is(")") || token.is("]"));
                depth == 0 && (token.is("{") || token.is(";"))
            });
            let body = at + body.unwrap_or_else(|| panic!("{}: {}", self.path, name.text));
            if self.tokens[body].is("{") {
                let end = self.tokens[closing(&self.tokens, body)].line;
                found.push((name.text.clone(), token.line, end + 1 - token.line));
            }
        }
        found
    }

    /// Lines without those of items that only tests compile.
    pub fn lines_without_tests(&self) -> usize {
        let mut tests = BTreeSet::new();
        let mut start = None;
        for (at, token) in self.tokens.iter().enumerate() {
            match (token.is_test, start) {
                (true, None) => start = Some(token.line),
                (false, Some(first)) => {
                    tests.extend(first..=self.tokens[at - 1].line);
                    start = None;
                }
                _ => {}
            }
        }
        if let (Some(first), Some(last)) = (start, self.tokens.last()) {
            tests.extend(first..=last.line);
        }
        self.text.lines().count() - tests.len()
    }
}

/// `src/a/mod.rs` and `src/a.rs` are both `["a"]`.
fn module(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let names = path.split('/').filter(|name| !["lib", "mod"].contains(name));
    names.map(str::to_owned).collect()
}

/// The position of the bracket that ends what begins at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    let end = tokens[open..].iter().position(|token| {
        depth += i32::from(["{", "(", "["].iter().any(|sign| token.is(sign)));
        depth -= i32::from(["}", ")", "]"].iter().any(|sign| token.is(sign)));
        depth == 0
    });
    open + end.unwrap_or_else(|| panic!("line {} opens what nothing closes", tokens[open].line))
}

/// Marks the items behind `#[cfg(test)]` and `#[cfg(any(test, …))]`, their attribute included.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at + 2 < tokens.len() {
        if !(tokens[at].is("#") && tokens[at + 1].is("[") && tokens[at + 2].is("cfg")) {
            at += 1;
            continue;
        }
        let end = closing(tokens, at + 1);
        let has = |word: &str| tokens[at..end].iter().any(|token| token.is(word));
        if !has("test") || has("not") {
            at = end;
            continue;
        }
        let mut last = end + 1;
        while !tokens[last].is(";") && !tokens[last].is(",") && !tokens[last].is("}") {
            if tokens[last].is("{") {
                last = closing(tokens, last);
                break;
            }
            let opens = tokens[last].is("(") || tokens[last].is("[");
            last = if opens { closing(tokens, last) + 1 } else { last + 1 };
        }
        // `use a::{b, c};` ends behind its braces.
        last += usize::from(tokens.get(last + 1).is_some_and(|token| token.is(";")));
        tokens[at..=last].iter_mut().for_each(|token| token.is_test = true);
        at = last + 1;
    }
}

/// `mod name;`, in order.
fn children(tokens: &[Token]) -> Vec<String> {
    let declared = tokens.windows(3).filter(|three| three[0].is("mod") && three[2].is(";"));
    declared.map(|three| three[1].text.clone()).collect()
}

fn defined(tokens: &[Token]) -> BTreeSet<String> {
    let keywords = ["fn", "struct", "enum", "const", "static", "trait", "type", "mod"];
    let pairs = tokens.windows(2).filter(|pair| keywords.iter().any(|word| pair[0].is(word)));
    pairs.map(|pair| pair[1].text.clone()).collect()
}

fn uses(tokens: &[Token]) -> Vec<Use> {
    let mut found = Vec::new();
    let mut modules = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        while modules.last().is_some_and(|end| *end < at) {
            modules.pop();
        }
        if token.is("mod") && tokens.get(at + 2).is_some_and(|token| token.is("{")) {
            modules.push(closing(tokens, at + 2));
        }
        // Not `use<'a>` of a return type.
        if token.is("use") && !tokens[at + 1].is("<") {
            let mut next = at + 1;
            let before = found.len();
            use_tree(tokens, &mut next, &[], &mut found);
            for used in &mut found[before..] {
                (used.line, used.is_test, used.depth) = (token.line, token.is_test, modules.len());
            }
        }
    }
    found
}

/// `a::{b, c as d, e::*}`: the names b, d and *.
fn use_tree(tokens: &[Token], at: &mut usize, prefix: &[String], found: &mut Vec<Use>) {
    let mut path = prefix.to_vec();
    loop {
        let token = &tokens[*at];
        *at += 1;
        if token.is("{") {
            while !tokens[*at].is("}") {
                use_tree(tokens, at, &path, found);
                *at += usize::from(tokens[*at].is(","));
            }
            *at += 1;
            return;
        }
        if token.is(":") {
            continue;
        }
        if !token.is("self") || path.is_empty() {
            path.push(token.text.clone());
        }
        if tokens[*at].is(":") {
            continue;
        }
        let mut name = path.last().unwrap().clone();
        if tokens[*at].is("as") {
            name.clone_from(&tokens[*at + 1].text);
            *at += 2;
        }
        found.push(Use { name, path, line: 0, is_test: false, depth: 0 });
        return;
    }
}

impl Tree {
    pub fn new(files: Vec<File>) -> Tree {
        let files = files.into_iter().filter(|file| file.path != "src/main.rs");
        let files = files.map(|file| (file.module.clone(), file)).collect();
        let mut tree = Tree { files, arrows: Vec::new() };
        let mut arrows: Vec<Arrow> = tree.files.values().flat_map(|file| tree.used(file)).collect();
        arrows.sort();
        arrows.dedup_by(|a, b| (&a.from, &a.to, &a.name) == (&b.from, &b.to, &b.name));
        tree.arrows = arrows;
        tree
    }

    pub fn path(&self, module: &[String]) -> &str {
        &self.files[module].path
    }

    /// Whether only tests compile this module.
    pub fn is_test(&self, module: &[String]) -> bool {
        let Some((name, parent)) = module.split_last() else { return false };
        let tokens = &self.files[parent].tokens;
        let declared = tokens.windows(2).find(|pair| pair[0].is("mod") && pair[1].is(name));
        declared.is_some_and(|pair| pair[0].is_test) || self.is_test(parent)
    }

    /// Every path of the file that leads to another file.
    fn used(&self, file: &File) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        let mut add = |path: &[String], depth: usize, line: usize, is_test: bool| {
            let Some(to) = self.resolve(&file.module, path, depth, 0) else { return };
            if to != file.module {
                let (from, name) = (file.module.clone(), path.join("::"));
                arrows.push(Arrow { from, to, name, line, is_test });
            }
        };
        for used in &file.uses {
            // What a mod.rs only hands on is used by those that name it.
            let is_handed_on = !file.children.is_empty() && !mentions(file, &used.name);
            if used.name == "*" {
                for token in file.tokens.iter().filter(|token| token.kind == Kind::Word) {
                    let mut path = used.path.clone();
                    path.last_mut().unwrap().clone_from(&token.text);
                    if self.is_brought_by(&file.module, &path, used.depth) {
                        add(&path, used.depth, token.line, used.is_test);
                    }
                }
            } else if !is_handed_on {
                add(&used.path, used.depth, used.line, used.is_test);
            }
        }
        for (path, depth, token) in paths(file) {
            add(&path, depth, token.line, token.is_test);
        }
        arrows
    }

    /// Whether a glob brings this name from another file than the one that it names.
    fn is_brought_by(&self, from: &[String], path: &[String], depth: usize) -> bool {
        let Some((name, module)) = path.split_last() else { return false };
        let Some(at) = self.resolve(from, module, depth, 0) else { return false };
        let file = &self.files[&at];
        file.defined.contains(name) || file.uses.iter().any(|used| used.name == *name)
    }

    /// The file that defines what `path` names in module `from`, `depth` modules inside its file.
    /// None where it is of another crate.
    fn resolve(
        &self,
        from: &[String],
        path: &[String],
        depth: usize,
        steps: usize,
    ) -> Option<Vec<String>> {
        assert!(steps < 20, "{path:?} of {from:?} leads in a circle");
        let (first, mut rest) = path.split_first()?;
        let mut at = from.to_vec();
        let mut inside = depth;
        match first.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                rest = path;
                while let Some(("super", others)) = rest.split_first().map(|(a, b)| (a.as_str(), b))
                {
                    rest = others;
                    if inside > 0 { inside -= 1 } else { at.pop().map(drop)? }
                }
            }
            name if self.files[from].children.iter().any(|child| child == name) => rest = path,
            name => {
                // A module that a `use` has brought.
                let mut uses = self.files[from].uses.iter();
                let brought = uses.find(|used| used.name == name && used.path != [name])?;
                let at = self.resolve(from, &brought.path, brought.depth, steps + 1)?;
                let is_module = at.last() == brought.path.last();
                return if is_module { self.walk(&at, rest, steps) } else { Some(at) };
            }
        }
        self.walk(&at, rest, steps)
    }

    fn walk(&self, at: &[String], path: &[String], steps: usize) -> Option<Vec<String>> {
        let Some((name, rest)) = path.split_first() else { return Some(at.to_vec()) };
        let file = &self.files[at];
        if file.children.contains(name) {
            let child: Vec<String> = at.iter().chain([name]).cloned().collect();
            return self.walk(&child, rest, steps);
        }
        if file.defined.contains(name) {
            return Some(at.to_vec());
        }
        if let Some(used) = file.uses.iter().find(|used| used.name == *name && used.depth == 0) {
            return self.resolve(at, &used.path, 0, steps + 1);
        }
        for glob in file.uses.iter().filter(|used| used.name == "*" && used.depth == 0) {
            let (_, module) = glob.path.split_last()?;
            let path: Vec<String> = module.iter().chain([name]).cloned().collect();
            if self.is_brought_by(at, &path, 0) {
                return self.resolve(at, &path, 0, steps + 1);
            }
        }
        Some(at.to_vec())
    }

    /// Arrows to a module that stands above the one that uses it.
    pub fn upward(&self) -> Vec<&Arrow> {
        let rank = |parent: &[String], name: &String| {
            self.files[parent].children.iter().position(|child| child == name)
        };
        let is_upward = |arrow: &&Arrow| {
            let common = arrow.from.iter().zip(&arrow.to).take_while(|(a, b)| a == b).count();
            let parent = &arrow.from[..common];
            match (arrow.from.get(common), arrow.to.get(common)) {
                (Some(from), Some(to)) => rank(parent, to) < rank(parent, from),
                _ => false,
            }
        };
        self.arrows.iter().filter(is_upward).collect()
    }

    /// Arrows of a module to the one that it is in, which itself uses it, be it through others.
    pub fn entangled(&self) -> Vec<&Arrow> {
        let code = |arrow: &&Arrow| !arrow.is_test && !self.is_test(&arrow.from);
        let reaches = |from: &[String], wanted: &[String]| {
            let (mut met, mut next) = (BTreeSet::from([from]), vec![from]);
            while let Some(at) = next.pop() {
                let out = self.arrows.iter().filter(code).filter(|arrow| arrow.from == at);
                for arrow in out.filter(|arrow| arrow.to.starts_with(from)) {
                    if arrow.to == wanted {
                        return true;
                    }
                    if met.insert(&arrow.to) {
                        next.push(&arrow.to);
                    }
                }
            }
            false
        };
        let to_parent = |arrow: &&Arrow| arrow.from.starts_with(&arrow.to);
        let arrows = self.arrows.iter().filter(code).filter(to_parent);
        arrows.filter(|arrow| reaches(&arrow.to, &arrow.from)).collect()
    }
}

/// Whether a name occurs outside of `use` declarations.
fn mentions(file: &File, name: &str) -> bool {
    let mut is_use = false;
    file.tokens.iter().any(|token| {
        is_use = (is_use || token.is("use")) && !token.is(";");
        !is_use && token.is(name)
    })
}

/// Every `a::b` outside of `use` declarations, how many `mod name { … }` it stands in, and its start.
fn paths(file: &File) -> Vec<(Vec<String>, usize, &Token)> {
    let tokens = &file.tokens;
    let (mut found, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        while modules.last().is_some_and(|end| *end < at) {
            modules.pop();
        }
        if tokens[at].is("mod") && tokens.get(at + 2).is_some_and(|token| token.is("{")) {
            modules.push(closing(tokens, at + 2));
        }
        if tokens[at].is("use") && !tokens[at + 1].is("<") {
            while !tokens[at].is(";") {
                at += 1;
            }
        }
        let start = at;
        let mut path = Vec::new();
        while tokens[at].kind == Kind::Word {
            path.push(tokens[at].text.clone());
            at += 1;
            let is_path = tokens.get(at..at + 3).is_some_and(|three| {
                three[0].is(":") && three[1].is(":") && three[2].kind == Kind::Word
            });
            if !is_path {
                break;
            }
            at += 2;
        }
        if path.len() > 1 {
            found.push((path, modules.len(), &tokens[start]));
        }
        at += usize::from(at == start);
    }
    found
}

/// Without comments and white space.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let end = end_of_token(&chars, at);
        let c = chars[at];
        let is_comment = c == '/' && matches!(chars.get(at + 1), Some('/' | '*'));
        if !c.is_whitespace() && !is_comment {
            let text: String = chars[at..end].iter().collect();
            let is_literal = c.is_ascii_digit() || text.ends_with(['"', '\'', '#']) && end > at + 1;
            let kind = match c {
                _ if is_literal => Kind::Literal,
                c if c.is_alphabetic() || c == '_' => Kind::Word,
                _ => Kind::Sign,
            };
            found.push(Token { kind, text, line, is_test: false });
        }
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    found
}

fn end_of_token(chars: &[char], at: usize) -> usize {
    let is_word = |c: &char| c.is_alphanumeric() || *c == '_';
    let rest = &chars[at..];
    let run = |from: usize, holds: &dyn Fn(&char) -> bool| {
        from + chars[from..].iter().take_while(|c| holds(c)).count()
    };
    match rest {
        ['/', '/', ..] => run(at, &|c| *c != '\n'),
        ['/', '*', ..] => {
            let (mut depth, mut end) = (0, at);
            loop {
                match &chars[end..] {
                    ['/', '*', ..] => (depth, end) = (depth + 1, end + 2),
                    ['*', '/', ..] => (depth, end) = (depth - 1, end + 2),
                    _ => end += 1,
                }
                if depth == 0 {
                    return end;
                }
            }
        }
        ['"', ..] => end_of_string(chars, at + 1),
        ['b' | 'c', '"', ..] => end_of_string(chars, at + 2),
        ['r', '"' | '#', ..] if is_raw(&rest[1..]) => end_of_raw_string(chars, at + 1),
        ['b' | 'c', 'r', '"' | '#', ..] if is_raw(&rest[2..]) => end_of_raw_string(chars, at + 2),
        ['b', '\'', ..] => end_of_char(chars, at + 2),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => end_of_char(chars, at + 1),
        // A lifetime.
        ['\'', ..] => run(at + 1, &is_word),
        [c, ..] if is_word(c) => run(at, &is_word),
        _ => at + 1,
    }
}

/// `"` or `#…#"`: `r#type` is a word.
fn is_raw(chars: &[char]) -> bool {
    chars.iter().find(|c| **c != '#') == Some(&'"')
}

fn end_of_string(chars: &[char], mut at: usize) -> usize {
    while chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    let mut end = at + hashes + 1;
    while !(chars[end] == '"' && chars[end + 1..].iter().take(hashes).all(|c| *c == '#')) {
        end += 1;
    }
    end + 1 + hashes
}

fn end_of_char(chars: &[char], mut at: usize) -> usize {
    while chars[at] != '\'' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}
