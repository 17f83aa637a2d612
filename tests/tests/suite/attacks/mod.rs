//! Attacks and faults, by the letters of their table.

mod a;
mod a_exe;
mod a_namespaces;
mod a_pins;
mod b;
mod c;
mod c_proc;
mod d;
mod e;
mod f;
mod g;
mod j_answers;
mod j_impostor;
mod j_speakers;
mod j_surroundings;
mod jk;
mod k_names;
mod l;
mod l_alone;
mod l_changes;
mod l_refused;
mod l_rewritten;
mod r;
mod r_rotation;
mod r_script;
mod r_terminal;
mod x;
mod x_background;
mod y;
mod z;

pub(crate) use a_pins::pin;
