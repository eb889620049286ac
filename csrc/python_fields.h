// Fills the params structs (params/fields.h) from a call's keywords. A tensor gives the address of its first element,
// None a null pointer; shapes, dtypes and density were checked in revelio_fast/ops.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

namespace revelio {

// A field's name as Python's interned string, which a call's own keyword is the same object as, and whether an earlier
// field of another struct has it, too.
struct FieldName {
    PyObject *interned;
    bool repeated;
};

struct FieldNames {
    std::vector<FieldName> all;

    template <typename Field>
    void operator()(const char *name, Field &, bool) {
        PyObject *interned = PyUnicode_InternFromString(name);
        bool repeated = false;
        for (const FieldName &other : all) repeated |= other.interned == interned;
        all.push_back({interned, repeated});
    }
};

class FieldFiller {
   public:
    FieldFiller(const char *function, PyObject *keywords, const FieldNames &names)
        : function_(function), keywords_(keywords), names_(names) {}

    template <typename Field>
    void operator()(const char *name, Field &field, bool required) {
        const FieldName &key = names_.all[at_++];
        PyObject *value = PyDict_GetItemWithError(keywords_, key.interned);
        taken_ += value && !key.repeated;
        if (value && value != Py_None) {
            set(field, value);
            if (PyErr_Occurred()) throw pybind11::error_already_set();
        } else if (required) {
            throw pybind11::type_error(std::string(function_) + " needs the argument " + name);
        }
    }

    // After all fields: whether every keyword was one of them.
    void refuse_others() const {
        if (taken_ == PyDict_Size(keywords_)) return;
        PyObject *key, *value;
        for (Py_ssize_t next = 0; PyDict_Next(keywords_, &next, &key, &value);) {
            bool known = false;
            for (const FieldName &name : names_.all) known |= PyUnicode_Compare(name.interned, key) == 0;
            if (!known) {
                throw pybind11::type_error(std::string(function_) + " has no argument " +
                                           pybind11::str(key).cast<std::string>());
            }
        }
    }

   private:
    template <typename T>
    static void set(T *&field, PyObject *tensor) {
        static PyObject *const data_ptr = PyUnicode_InternFromString("data_ptr");
        PyObject *address = PyObject_CallMethodNoArgs(tensor, data_ptr);
        if (!address) return;
        field = static_cast<T *>(PyLong_AsVoidPtr(address));
        Py_DECREF(address);
    }
    static void set(bool &field, PyObject *value) { field = PyObject_IsTrue(value) == 1; }
    static void set(int &field, PyObject *value) { field = static_cast<int>(PyLong_AsLong(value)); }
    static void set(int64_t &field, PyObject *value) { field = PyLong_AsLongLong(value); }
    static void set(std::uintptr_t &field, PyObject *value) { field = PyLong_AsSize_t(value); }
    static void set(double &field, PyObject *value) { field = PyFloat_AsDouble(value); }

    const char *function_;
    PyObject *keywords_;
    const FieldNames &names_;
    size_t at_ = 0;
    Py_ssize_t taken_ = 0;
};

// Fills all structs of a function from one call's keywords; a name may be a field of several. Raises TypeError for a
// required field without a keyword and for a keyword that is no field.
template <typename... Params>
void fill(const char *function, const pybind11::kwargs &keywords, Params &...params) {
    static const FieldNames names = [&] {
        FieldNames found;
        (visit_fields(params, found), ...);
        return found;
    }();
    FieldFiller filler(function, keywords.ptr(), names);
    (visit_fields(params, filler), ...);
    filler.refuse_others();
}

}  // namespace revelio
