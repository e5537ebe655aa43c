package nvmlfake

import (
	"reflect"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
)

// What is not modelled: go-nvml's mocks, in which every function answers ERROR_NOT_SUPPORTED and zeroes.
var (
	unknownInterface       = answering(&mock.Interface{})
	unknownDevice          = answering(&mock.Device{})
	unknownGPUInstance     = answering(&mock.GpuInstance{})
	unknownComputeInstance = answering(&mock.ComputeInstance{})
	unknownEventSet        = answering(&mock.EventSet{})
)

// answering sets all functions of a mock. NVML's functions that are methods too, such as DeviceGetName of a device, call the
// method.
func answering[M any](m *M) *M {
	v := reflect.ValueOf(m).Elem()
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Func || !f.CanSet() {
			continue
		}
		name := strings.TrimSuffix(v.Type().Field(i).Name, "Func")
		f.Set(reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
			if method := methodOf(name, args); method.IsValid() {
				return method.Call(args[1:])
			}
			return unsupported(f.Type())
		}))
	}
	return m
}

// unsupported are the results of a function that says so.
func unsupported(t reflect.Type) []reflect.Value {
	out := make([]reflect.Value, t.NumOut())
	for i := range out {
		out[i] = reflect.Zero(t.Out(i))
		if t.Out(i) == reflect.TypeFor[nvml.Return]() {
			out[i] = reflect.ValueOf(nvml.ERROR_NOT_SUPPORTED)
		}
	}
	return out
}

// methodOf is the method that a function of the library stands for, the zero Value when it stands for none.
func methodOf(name string, args []reflect.Value) reflect.Value {
	for _, prefix := range []string{"Device", "GpuInstance", "ComputeInstance", "EventSet"} {
		method, ok := strings.CutPrefix(name, prefix)
		if ok && len(args) > 0 && args[0].Kind() == reflect.Interface && !args[0].IsNil() {
			if m := args[0].Elem().MethodByName(method); m.IsValid() && m.Type().NumIn() == len(args)-1 {
				return m
			}
		}
	}
	return reflect.Value{}
}
