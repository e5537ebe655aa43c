// Package snapshot writes down what a decision about a cluster rests on, and reads it back: for `weft plan what-if` and for
// simulations, far from the cluster.
//
// A [Document] is a list of what is kept, field by field; what is not a field of it is not in it. Of pods that is what they ask for and
// hold and where they may run: nothing of what runs in them. There are no environments, arguments, images, volumes or secrets in it, no
// annotations but the keys of package podspec that decide something, and of labels only those of GPUs and of the topology, those that
// somebody selects nodes or namespaces by, and those that order the members of a gang.
//
// [Take] reads the API server in pages and writes each object as it comes, so that its memory does not grow with the number of pods.
// [Anonymise] replaces names by hashes; see there for what stays.
//
// [Read] is strict: a field that is not known is an error with its path, so that a misspelt one is not left out in silence. Nothing in
// a document is believed. [Document.Objects] has the API objects that the document says as much as, for everything that reads those,
// and [Objects.State] is what these make of them: values of the core.
package snapshot
