//! Objects one part after the other: what an enumeration has left to give.
//!
//! A part is a class on the host itself or on one VM. Only the objects of the part at hand are held, so a listing of a
//! full host takes the memory of one VM; an object is as it is when its part's turn comes, and a VM that is gone by then
//! is left out.

use std::collections::VecDeque;

use uuid::Uuid;

use super::{Scope, classes_of, instances, instances_of};
use crate::cim::{Class, Object, V2};
use crate::engine::Engine;
use crate::wql::{self, Expr};

/// What is still to come.
#[derive(Debug, Default)]
pub(crate) struct Source {
    classes: Vec<&'static Class>,
    vms: Vec<Uuid>,
    /// The next part: for each class the host, then every VM.
    next: usize,
    filter: Option<Expr>,
    columns: Option<Vec<String>>,
    at_hand: VecDeque<Object>,
}

impl Source {
    /// The objects of a class and of those derived from it.
    pub(crate) fn of_class(engine: &Engine, class: &Class) -> Self {
        if class.namespace != V2 {
            return Self::of_objects(instances(engine, class));
        }
        Self {
            classes: classes_of(class).collect(),
            vms: engine.read(|state| state.vms.keys().copied().collect()),
            ..Self::default()
        }
    }

    /// Objects that were found already.
    pub(crate) fn of_objects(objects: Vec<Object>) -> Self {
        Self {
            at_hand: objects.into(),
            ..Self::default()
        }
    }

    /// Gives only what the filter selects, and of it only these properties.
    pub(crate) fn select(
        mut self,
        engine: &Engine,
        filter: Option<Expr>,
        columns: Option<Vec<String>>,
    ) -> Self {
        self.filter = filter;
        self.columns = columns;
        let found = std::mem::take(&mut self.at_hand);
        self.take_in(engine, found.into());
        self
    }

    fn take_in(&mut self, engine: &Engine, objects: Vec<Object>) {
        let server = engine.name();
        let scope = wql::Scope { server: &server };
        let filter = self.filter.as_ref();
        let chosen = objects
            .into_iter()
            .filter(|object| filter.is_none_or(|filter| wql::matches(filter, object, &scope)));
        match &self.columns {
            Some(columns) => self
                .at_hand
                .extend(chosen.map(|object| object.project(columns))),
            None => self.at_hand.extend(chosen),
        }
    }

    /// Returns the next object without taking it.
    pub(crate) fn peek(&mut self, engine: &Engine) -> Option<&Object> {
        while self.at_hand.is_empty() {
            let parts = self.vms.len() + 1;
            let class = *self.classes.get(self.next / parts)?;
            let scope = match self.next % parts {
                0 => Scope::Host,
                vm => Scope::Vm(self.vms[vm - 1]),
            };
            self.next += 1;
            let objects = instances_of(engine, class, scope);
            self.take_in(engine, objects);
        }
        self.at_hand.front()
    }

    /// Takes the next object away, after it was looked at.
    pub(crate) fn pop(&mut self) {
        self.at_hand.pop_front();
    }
}
