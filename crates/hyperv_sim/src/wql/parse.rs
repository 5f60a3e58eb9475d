//! WQL: from text to [`Query`].

/// More words than any real query has; bounds the work a hostile one can cause.
const MAX_TOKENS: usize = 4096;
/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 64;

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Query {
    Select { columns: Option<Vec<String>>, class: String, filter: Option<Expr> },
    Associators { path: String, filter: AssocFilter },
    References { path: String, filter: AssocFilter },
}

/// The WHERE part of ASSOCIATORS OF and REFERENCES OF.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AssocFilter {
    pub(crate) assoc_class: Option<String>,
    pub(crate) result_class: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) result_role: Option<String>,
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Compare { left: Operand, op: CompareOp, right: Operand },
    IsNull(Operand),
}

/// How two operands are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompareOp {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
    Isa,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A property or system name (`__SERVER`).
    Name(String),
    Text(String),
    Number(i128),
    Bool(bool),
    Null,
}

/// A text that is no query, and where it goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid query: {what}")]
pub(crate) struct ParseError {
    what: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(i128),
    /// The text between braces, as it stands.
    Braces(String),
    Symbol(&'static str),
}

/// Reads a query.
pub(crate) fn parse(text: &str) -> Result<Query, ParseError> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
    };
    let query = if parser.keyword("SELECT") {
        parser.select()?
    } else if parser.keyword("ASSOCIATORS") {
        let (path, filter) = parser.association()?;
        Query::Associators { path, filter }
    } else if parser.keyword("REFERENCES") {
        let (path, filter) = parser.association()?;
        Query::References { path, filter }
    } else {
        return Err(error(
            "it does not begin with SELECT, ASSOCIATORS OF or REFERENCES OF",
        ));
    };
    match parser.peek() {
        None => Ok(query),
        Some(token) => Err(error(&format!("{token:?} is left over at the end"))),
    }
}

fn error(what: &str) -> ParseError {
    ParseError {
        what: what.to_owned(),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        if tokens.len() == MAX_TOKENS {
            return Err(error("it is too long"));
        }
        let (token, after) = match c {
            '\'' | '"' => quoted(rest, c)?,
            '{' => {
                let end = end_of_braces(rest).ok_or_else(|| error("a { is not closed"))?;
                (
                    Token::Braces(rest[1..end].trim().to_owned()),
                    &rest[end + 1..],
                )
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), &rest[end..])
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = rest[1..]
                    .find(|c: char| !c.is_ascii_digit())
                    .map_or(rest.len(), |end| end + 1);
                let number = rest[..end]
                    .parse()
                    .map_err(|_| error("a number is out of range"))?;
                (Token::Number(number), &rest[end..])
            }
            _ => symbol(rest)?,
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn quoted(text: &str, quote: char) -> Result<(Token, &str), ParseError> {
    let mut value = String::new();
    let mut chars = text[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, c)) => value.push(c),
                None => break,
            },
            c if c == quote => return Ok((Token::Text(value), &text[at + 2..])),
            c => value.push(c),
        }
    }
    Err(error("a string is not closed"))
}

/// Returns where the brace that opens the text is closed; braces within quotes do not count.
fn end_of_braces(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '}') => return Some(at),
            (Some(_) | None, _) => {}
        }
    }
    None
}

fn symbol(text: &str) -> Result<(Token, &str), ParseError> {
    for symbol in [
        "!=", "<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "*", ".",
    ] {
        if let Some(rest) = text.strip_prefix(symbol) {
            return Ok((Token::Symbol(symbol), rest));
        }
    }
    Err(error(&format!(
        "{:?} has no place there",
        text.chars().next().unwrap_or(' ')
    )))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn keyword(&mut self, word: &str) -> bool {
        let found =
            matches!(self.peek(), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word));
        if found {
            self.at += 1;
        }
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn word(&mut self, what: &str) -> Result<String, ParseError> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            Some(_) | None => Err(error(&format!("{what} is missing"))),
        }
    }

    fn select(&mut self) -> Result<Query, ParseError> {
        let columns = if self.symbol("*") {
            None
        } else {
            let mut columns = vec![self.word("a property name")?];
            while self.symbol(",") {
                columns.push(self.word("a property name")?);
            }
            Some(columns)
        };
        if !self.keyword("FROM") {
            return Err(error("FROM is missing"));
        }
        let class = self.word("a class name")?;
        let filter = if self.keyword("WHERE") {
            Some(self.or(0)?)
        } else {
            None
        };
        Ok(Query::Select {
            columns,
            class,
            filter,
        })
    }

    fn association(&mut self) -> Result<(String, AssocFilter), ParseError> {
        if !self.keyword("OF") {
            return Err(error("OF is missing"));
        }
        let Some(Token::Braces(path)) = self.next() else {
            return Err(error("an object path in braces is missing"));
        };
        let mut filter = AssocFilter::default();
        if self.keyword("WHERE") {
            while self.peek().is_some() {
                // Conditions stand side by side; some programs write AND between them.
                self.keyword("AND");
                let name = self.word("a condition")?;
                if !self.symbol("=") {
                    return Err(error("= is missing"));
                }
                let Some(Token::Word(value) | Token::Text(value)) = self.next() else {
                    return Err(error("a class or role name is missing"));
                };
                let slot = match name.to_ascii_lowercase().as_str() {
                    "assocclass" => &mut filter.assoc_class,
                    "resultclass" => &mut filter.result_class,
                    "role" => &mut filter.role,
                    "resultrole" => &mut filter.result_role,
                    _ => return Err(error(&format!("{name} is not known"))),
                };
                *slot = Some(value);
            }
        }
        Ok((path, filter))
    }

    fn or(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut left = self.and(depth)?;
        while self.keyword("OR") {
            left = Expr::Or(Box::new(left), Box::new(self.and(depth)?));
        }
        Ok(left)
    }

    fn and(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut left = self.condition(depth)?;
        while self.keyword("AND") {
            left = Expr::And(Box::new(left), Box::new(self.condition(depth)?));
        }
        Ok(left)
    }

    fn condition(&mut self, depth: usize) -> Result<Expr, ParseError> {
        if depth == MAX_DEPTH {
            return Err(error("brackets are nested too deep"));
        }
        if self.keyword("NOT") {
            return Ok(Expr::Not(Box::new(self.condition(depth + 1)?)));
        }
        if self.symbol("(") {
            let inner = self.or(depth + 1)?;
            return if self.symbol(")") {
                Ok(inner)
            } else {
                Err(error("a ( is not closed"))
            };
        }
        let left = self.operand()?;
        if self.keyword("IS") {
            let not = self.keyword("NOT");
            if !self.keyword("NULL") {
                return Err(error("NULL is missing after IS"));
            }
            let test = Expr::IsNull(left);
            return Ok(if not { Expr::Not(Box::new(test)) } else { test });
        }
        if self.keyword("NOT") {
            if !self.keyword("LIKE") {
                return Err(error("LIKE is missing after NOT"));
            }
            let right = self.operand()?;
            return Ok(Expr::Not(Box::new(Expr::Compare {
                left,
                op: CompareOp::Like,
                right,
            })));
        }
        let op = if self.keyword("LIKE") {
            CompareOp::Like
        } else if self.keyword("ISA") {
            CompareOp::Isa
        } else {
            match self.next() {
                Some(Token::Symbol("=")) => CompareOp::Equal,
                Some(Token::Symbol("!=" | "<>")) => CompareOp::NotEqual,
                Some(Token::Symbol("<")) => CompareOp::Less,
                Some(Token::Symbol("<=")) => CompareOp::LessOrEqual,
                Some(Token::Symbol(">")) => CompareOp::Greater,
                Some(Token::Symbol(">=")) => CompareOp::GreaterOrEqual,
                Some(_) | None => return Err(error("a comparison is missing")),
            }
        };
        let right = self.operand()?;
        Ok(Expr::Compare { left, op, right })
    }

    fn operand(&mut self) -> Result<Operand, ParseError> {
        Ok(match self.next() {
            Some(Token::Text(text)) => Operand::Text(text),
            Some(Token::Number(number)) => Operand::Number(number),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Operand::Bool(true),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Operand::Bool(false),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => Operand::Null,
            Some(Token::Word(word)) => Operand::Name(word),
            Some(Token::Braces(_) | Token::Symbol(_)) | None => {
                return Err(error("a name or value is missing"));
            }
        })
    }
}
