//! What is a file of several bindings, of one grant, made of?

use kin_policy::{Action, Decision, FileName, RenderedFile, Request, Standing, decide_together};
use parking_lot::Mutex;

use crate::grants::live::LiveGrant;
use crate::project::render::Recipe;
use crate::sys::clock;

/// What one grant's file is made of, and how large it was when that was last found out.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) recipe: Recipe,
    pub(crate) measured: Mutex<Option<Measured>>,
}

/// The size of a file, of one state of the vault; `None` where it cannot be made of that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) generation: u64,
    pub(crate) size: Option<u64>,
}

impl Rendered {
    pub(crate) fn of(recipe: Recipe) -> Self {
        Self { recipe, measured: Mutex::default() }
    }

    /// Whether it is made in this way.
    pub(crate) fn is_made_as(&self, recipe: &Recipe) -> bool {
        self.recipe == *recipe
    }
}

impl LiveGrant {
    /// Decides for every binding that the file is made of.
    pub(crate) fn decided_together(
        &self,
        request: &Request<'_>,
        file: &FileName,
        rendered: &RenderedFile,
        suspended: bool,
    ) -> Decision {
        let crowded = request.action == Action::Open && self.is_crowded();
        let around: Vec<_> = rendered.bindings.keys().map(|binding| self.around(Some(binding))).collect();
        let parts: Vec<_> = rendered
            .bindings
            .keys()
            .zip(&around)
            .map(|(binding, around)| {
                let standing = Standing { suspended, crowded, ..self.standing(Some(binding), around) };
                (Request { file: Some(binding), through: Some(file), ..*request }, standing)
            })
            .collect();
        decide_together(&parts, clock::now())
    }
}
