//! Enums and ids that are stored as text.

/// A text that is no value of the type.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ParseTextError {
    /// What it should have been.
    pub what: &'static str,
    /// What was given, shortened.
    pub text: String,
}

/// Gives an enum its stored names.
macro_rules! stored_enum {
    ($type:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// Returns the stable name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),+ }
            }
        }
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl std::str::FromStr for $type {
            type Err = $crate::text::ParseTextError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::text::ParseTextError { what: $what, text: text.chars().take(80).collect() }),
                }
            }
        }
    };
}
pub(crate) use stored_enum;

/// Makes an id of the catalog's own: a random GUID in lower case.
macro_rules! own_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub uuid::Uuid);

        impl $name {
            /// Returns a new random id.
            #[must_use]
            pub fn random() -> Self {
                Self(uuid::Uuid::new_v4())
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                uuid::Uuid::try_parse(text).map(Self)
            }
        }
    };
}
pub(crate) use own_id;
