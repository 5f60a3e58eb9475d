//! How inputs are written down: one description for both directions.
//!
//! Every string of bytes is an input: what is missing at its end is zeros, and what is out of range is brought into it by
//! whoever uses it. So a fuzzer wastes nothing on inputs that cannot be parsed, and a seed can be made from a value.

/// Reads or writes the fields of an input, in order.
pub(crate) trait Wire: Sized {
    fn byte(&mut self, value: &mut u8);

    /// Returns whether nothing more can be read.
    fn at_end(&self) -> bool;

    fn flag(&mut self, value: &mut bool) {
        let mut byte = u8::from(*value);
        self.byte(&mut byte);
        *value = byte & 1 == 1;
    }

    fn short(&mut self, value: &mut u16) {
        let mut bytes = value.to_le_bytes();
        bytes.iter_mut().for_each(|byte| self.byte(byte));
        *value = u16::from_le_bytes(bytes);
    }

    fn long(&mut self, value: &mut u64) {
        let mut bytes = value.to_le_bytes();
        bytes.iter_mut().for_each(|byte| self.byte(byte));
        *value = u64::from_le_bytes(bytes);
    }

    /// A list of at most `max` items, fewer where the input ends.
    fn list<T: Default>(&mut self, items: &mut Vec<T>, max: u8, each: impl Fn(&mut Self, &mut T)) {
        let mut count = u8::try_from(items.len()).unwrap_or(max);
        self.byte(&mut count);
        for number in 0..usize::from(count % (max + 1)) {
            if number == items.len() {
                if self.at_end() {
                    break;
                }
                items.push(T::default());
            }
            each(self, &mut items[number]);
        }
    }
}

/// Reads an input.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl Wire for Decoder<'_> {
    fn byte(&mut self, value: &mut u8) {
        *value = match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        };
    }

    fn at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes an input.
#[derive(Default)]
pub(crate) struct Encoder(pub(crate) Vec<u8>);

impl Wire for Encoder {
    fn byte(&mut self, value: &mut u8) {
        self.0.push(*value);
    }

    fn at_end(&self) -> bool {
        false
    }
}

/// An input that can be read from bytes and written to them.
pub(crate) trait Input: Clone + Default {
    fn wire(&mut self, wire: &mut impl Wire);

    fn decode(bytes: &[u8]) -> Self {
        let mut input = Self::default();
        input.wire(&mut Decoder(bytes));
        input
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        self.clone().wire(&mut encoder);
        encoder.0
    }
}
