//! The StatefulSet controller: pods with stable names, identities and volumes, made and replaced in order.
