//! Numbers for states: every value of a type has one number, and every number one value.
//!
//! So that all values can be walked through by counting, and sets of them are
//! sets of bits.

use spool::phase::Belief;

/// A type whose values are numbered without a gap.
pub trait Coded: Copy {
    /// How many values there are.
    const COUNT: u32;
    /// The number of this value.
    fn code(self) -> u32;
    /// The value with this number, which is below `COUNT`.
    fn of(code: u32) -> Self;

    /// All values in the order of their numbers.
    fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self::of)
    }
}

impl Coded for bool {
    const COUNT: u32 = 2;
    fn code(self) -> u32 {
        self.into()
    }
    fn of(code: u32) -> bool {
        code == 1
    }
}

impl<T: Coded> Coded for Option<T> {
    const COUNT: u32 = T::COUNT + 1;
    fn code(self) -> u32 {
        self.map_or(0, |value| value.code() + 1)
    }
    fn of(code: u32) -> Option<T> {
        code.checked_sub(1).map(T::of)
    }
}

impl Coded for Belief {
    const COUNT: u32 = 3;
    fn code(self) -> u32 {
        self as u32
    }
    fn of(code: u32) -> Belief {
        [Belief::Absent, Belief::Doubted, Belief::Believed][code as usize]
    }
}

/// Defines an enum of names alone, numbered in their order.
macro_rules! coded_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $value:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$about])* $value),+ }

        impl $name {
            const VALUES: &'static [$name] = &[$($name::$value),+];
        }

        impl $crate::states::code::Coded for $name {
            const COUNT: u32 = $name::VALUES.len() as u32;
            fn code(self) -> u32 {
                self as u32
            }
            fn of(code: u32) -> $name {
                $name::VALUES[code as usize]
            }
        }
    };
}

/// Defines a struct of coded fields, numbered as a number of many radices.
macro_rules! coded_struct {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$about])* pub $field: $kind),+ }

        impl $crate::states::code::Coded for $name {
            const COUNT: u32 = 1 $(* <$kind as $crate::states::code::Coded>::COUNT)+;
            fn code(self) -> u32 {
                let mut code = 0;
                $(code = code * <$kind as $crate::states::code::Coded>::COUNT + self.$field.code();)+
                code
            }
            fn of(code: u32) -> $name {
                let mut radix = Self::COUNT;
                let mut digit = |count: u32| {
                    let above = radix;
                    radix /= count;
                    code % above / radix
                };
                $(let $field = <$kind as $crate::states::code::Coded>::of(digit(<$kind as $crate::states::code::Coded>::COUNT));)+
                $name { $($field),+ }
            }
        }
    };
}

pub(crate) use {coded_enum, coded_struct};

#[cfg(test)]
mod tests {
    use super::*;

    coded_enum!(Colour { Red, Green, Blue });
    coded_struct!(Flag { left: Colour, right: Option<Colour>, pole: bool });

    #[test]
    fn every_value_has_its_own_number() {
        assert_eq!(Flag::COUNT, 3 * 4 * 2);
        for code in 0..Flag::COUNT {
            assert_eq!(Flag::of(code).code(), code);
        }
        assert_eq!(Flag::of(0), Flag { left: Colour::Red, right: None, pole: false });
    }
}
