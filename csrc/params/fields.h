// Params structs that are written down once. A list of fields gives the struct its members, and visit_fields their
// names:
//
//     #define EXAMPLE_FIELDS(REQUIRED, OPTIONAL) REQUIRED(const float *, x) OPTIONAL(bool, relu)
//     REVELIO_PARAMS(Example, EXAMPLE_FIELDS)
//
// is struct Example { const float *x; bool relu; } and visit_fields(example, visit), which calls visit("x", example.x,
// true) and visit("relu", example.relu, false). The bindings fill every struct so, from keywords of these names; an
// optional field that no keyword names is null, 0 or false. A new argument of an op is a line in its list.
#pragma once

#include <cstdint>

#define REVELIO_MEMBER(type, name) type name;
#define REVELIO_VISIT_REQUIRED(type, name) visit(#name, params.name, true);
#define REVELIO_VISIT_OPTIONAL(type, name) visit(#name, params.name, false);

#define REVELIO_PARAMS(Struct, FIELDS)                         \
    struct Struct {                                            \
        FIELDS(REVELIO_MEMBER, REVELIO_MEMBER)                 \
    };                                                         \
    template <typename Visit>                                  \
    void visit_fields(Struct &params, Visit &visit) {          \
        FIELDS(REVELIO_VISIT_REQUIRED, REVELIO_VISIT_OPTIONAL) \
    }
