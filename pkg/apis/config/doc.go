// +k8s:deepcopy-gen=package
// +groupName=config.weft.sh

// Package config holds the arguments of the scheduler plugins in the form in which the plugins use them: plain values,
// defaulted and complete. People write the versioned form, package v1; package scheme reads it.
package config
