//! Tenants: what may be declared of one, and its row.
//!
//! Both the API and `apply` check forms here and write rows with [`store::insert`] and
//! [`store::update`].

pub mod form;
pub mod health;
pub mod store;
pub mod view;
