package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Queue is who may use how many GPUs at once, and how many GPU-hours in a period. Queues form a tree: what is charged to one is
// charged to all above it.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=weft
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Parent",type=string,JSONPath=`.spec.parent`
// +kubebuilder:printcolumn:name="GPUs",type=string,JSONPath=`.status.gpus.running`
// +kubebuilder:printcolumn:name="Guaranteed",type=string,JSONPath=`.spec.gpus.guaranteed`
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.spec.gpus.limit`
// +kubebuilder:printcolumn:name="Used",type=string,JSONPath=`.status.budget.used`,description="GPU-hours used in this period"
// +kubebuilder:printcolumn:name="Held",type=string,JSONPath=`.status.budget.held`,description="GPU-hours that running pods may still use"
// +kubebuilder:printcolumn:name="Budget",type=string,JSONPath=`.status.budget.limit`,description="GPU-hours of this period"
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.pendingPods`
// +kubebuilder:printcolumn:name="Valid",type=string,JSONPath=`.status.conditions[?(@.type=="Valid")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
//
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="a pod names its queue in a label: want a name of at most 63 characters"
// +kubebuilder:validation:XValidation:rule="!has(self.spec) || !has(self.spec.parent) || self.spec.parent != self.metadata.name",message="spec.parent is the queue itself: want another queue, or none"
type Queue struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec QueueSpec `json:"spec,omitzero"`
	// +optional
	Status QueueStatus `json:"status,omitzero"`
}

// QueueList is a list of Queues.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
type QueueList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Queue `json:"items"`
}

// QueueSpec is what an admin grants.
type QueueSpec struct {
	// parent is the queue above this one; empty for a queue at the top.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Parent string `json:"parent,omitempty"`
	// default makes this the queue of pods that have no label weft.sh/queue, in the namespaces that may use it. Of two default
	// queues for one namespace the older counts, and the other's condition Valid is False; pods that name it may use it.
	// +optional
	Default bool `json:"default,omitempty"`
	// namespaces says whose pods may use the queue. Without it every namespace may.
	// +optional
	Namespaces *NamespaceSelector `json:"namespaces,omitempty"`
	// gpus bounds what runs at the same time.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.limit) || !has(self.guaranteed) || quantity(string(self.guaranteed)).compareTo(quantity(string(self.limit))) <= 0",message="guaranteed is more than limit"
	// +kubebuilder:validation:XValidation:rule="!has(self.guaranteed) || type(self.guaranteed) == int || string(self.guaranteed).matches('^([0-9]{1,7}([.][0-9]{1,3})?|[0-9]{1,10}m|[0-9]{1,4}k)$')",fieldPath=".guaranteed",message="want 0 or more GPUs in steps of a thousandth, such as 8 or 500m"
	// +kubebuilder:validation:XValidation:rule="!has(self.limit) || type(self.limit) == int || string(self.limit).matches('^([0-9]{1,7}([.][0-9]{1,3})?|[0-9]{1,10}m|[0-9]{1,4}k)$')",fieldPath=".limit",message="want 0 or more GPUs in steps of a thousandth, such as 8 or 500m"
	GPUs QueueGPUs `json:"gpus,omitzero"`
	// weight is this queue's part, among its siblings, of what nobody is guaranteed and of what others leave idle.
	// +optional
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Weight int64 `json:"weight,omitempty"`
	// windows are times of the day with other numbers of GPUs. Where several are open the first in the list counts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Windows []Window `json:"windows,omitempty"`
	// budget bounds the GPU-hours of a period. Without it hours are recorded, and bounded by the queues above alone.
	// +optional
	Budget *Budget `json:"budget,omitempty"`
	// runtime is how long pods of the queue are expected to run.
	// +optional
	Runtime Runtime `json:"runtime,omitzero"`
}

// NamespaceSelector selects namespaces by name or by label: either is enough. An empty one selects none.
type NamespaceSelector struct {
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=63
	Names []string `json:"names,omitempty"`
	// +optional
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
}

// QueueGPUs are numbers of GPUs at the same time, in GPUs: "8", or "500m" for half of one. A MIG instance counts as its part of
// the GPU's memory slices.
type QueueGPUs struct {
	// guaranteed can always be had: others who borrowed it are evicted. The guarantees of children add up to no more than
	// their parent's.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]{1,7}([.][0-9]{1,3})?|[0-9]{1,10}m|[0-9]{1,4}k)$`
	// +kubebuilder:validation:XValidation:rule="type(self) != int || (self >= 0 && self <= 9999999)",message="want 0 or more GPUs in steps of a thousandth, such as 8 or 500m"
	Guaranteed *resource.Quantity `json:"guaranteed,omitempty"`
	// limit is never exceeded. Without it the queue may borrow all that is idle.
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]{1,7}([.][0-9]{1,3})?|[0-9]{1,10}m|[0-9]{1,4}k)$`
	// +kubebuilder:validation:XValidation:rule="type(self) != int || (self >= 0 && self <= 9999999)",message="want 0 or more GPUs in steps of a thousandth, such as 8 or 500m"
	Limit *resource.Quantity `json:"limit,omitempty"`
}

// Window is a time of the day in which other numbers of GPUs hold. When it closes and more runs than is then guaranteed, the
// rest is borrowed: it goes on while nobody wants its guarantee back, and is reclaimed as any other borrowed GPU.
type Window struct {
	// days are the days on which it opens; empty for all.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=7
	// +kubebuilder:validation:items:Enum=Mon;Tue;Wed;Thu;Fri;Sat;Sun
	Days []string `json:"days,omitempty"`
	// from and to are times of the day such as 08:00; a window whose to is not after from closes on the next day.
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	From string `json:"from"`
	// +kubebuilder:validation:Pattern=`^([01][0-9]|2[0-3]):[0-5][0-9]$`
	To string `json:"to"`
	// timeZone is an IANA name such as Europe/Berlin; empty for UTC.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^([A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*)?$`
	// +kubebuilder:validation:XValidation:rule="self != 'Local'",message="want the IANA name of a time zone, such as Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`
	// gpus takes the place of spec.gpus, each number that is given.
	GPUs QueueGPUs `json:"gpus"`
}

// Period is how long a budget lasts.
//
// +kubebuilder:validation:Enum=Day;Week;Month;Quarter;Year;None
type Period string

// Periods begin at midnight of the budget's time zone: weeks on Monday. None never ends.
const (
	PeriodDay     Period = "Day"
	PeriodWeek    Period = "Week"
	PeriodMonth   Period = "Month"
	PeriodQuarter Period = "Quarter"
	PeriodYear    Period = "Year"
	PeriodNone    Period = "None"
)

// Enforcement is what happens when a budget runs out, and Drain also to who runs for longer than it was admitted for.
//
// +kubebuilder:validation:Enum=Notify;Throttle;Hold;Drain
type Enforcement string

const (
	// EnforceNotify alerts and does nothing else.
	EnforceNotify Enforcement = "Notify"
	// EnforceThrottle lets the queue have its guarantee only, after all others.
	EnforceThrottle Enforcement = "Throttle"
	// EnforceHold starts nothing that the rest of the budget does not cover to its end.
	EnforceHold Enforcement = "Hold"
	// EnforceDrain is Hold, and what runs is evicted after a grace period, gangs as a whole, when the budget is used up, and when it runs
	// for longer than it was admitted for.
	EnforceDrain Enforcement = "Drain"
)

// Budget is an amount of GPU-hours for each period. A GPU-hour counts as often as the weight of its GPUClass says.
type Budget struct {
	// gpuHours are granted for each period: "1000", or "0.5".
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]{1,12}([.][0-9]{1,6})?|[0-9]{1,15}[um]|[0-9]{1,9}k|[0-9]{1,6}M|[0-9]{1,3}G)$`
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 999999999999 : string(self).matches('^([0-9]{1,12}([.][0-9]{1,6})?|[0-9]{1,15}[um]|[0-9]{1,9}k|[0-9]{1,6}M|[0-9]{1,3}G)$')",message="want 0 or more GPU-hours, such as 1000 or 0.5"
	GPUHours resource.Quantity `json:"gpuHours"`
	// +optional
	// +kubebuilder:default=Month
	Period Period `json:"period,omitempty"`
	// timeZone is an IANA name such as Europe/Berlin, in which periods begin; empty for UTC.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^([A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*)?$`
	// +kubebuilder:validation:XValidation:rule="self != 'Local'",message="want the IANA name of a time zone, such as Europe/Berlin"
	TimeZone string `json:"timeZone,omitempty"`
	// rolloverPercent is how much of what a period left unused is added to the next, in percent of gpuHours at most.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	RolloverPercent int32 `json:"rolloverPercent,omitempty"`
	// +optional
	// +kubebuilder:default=Hold
	Enforcement Enforcement `json:"enforcement,omitempty"`
	// drainGraceSeconds is how long pods have, once they were told, to write a checkpoint before Drain evicts them.
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	DrainGraceSeconds *int32 `json:"drainGraceSeconds,omitempty"`
	// alertPercents of the budget that raise an alert, ascending; 70, 85 and 95 by default.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=1000
	// +kubebuilder:validation:XValidation:rule="self.isSorted()",message="want percents in ascending order"
	AlertPercents []int32 `json:"alertPercents,omitempty"`
	// chargeStartup charges also the time from the binding until the containers run.
	// +optional
	// +kubebuilder:default=true
	ChargeStartup *bool `json:"chargeStartup,omitempty"`
	// adjustments are credits and corrections, which count in the period that at lies in.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=256
	Adjustments []Adjustment `json:"adjustments,omitempty"`
}

// Adjustment is a signed entry on the books.
type Adjustment struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// gpuHours are added to the budget; "-10" takes ten away.
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^-?([0-9]{1,12}([.][0-9]{1,6})?|[0-9]{1,15}[um]|[0-9]{1,9}k|[0-9]{1,6}M|[0-9]{1,3}G)$`
	GPUHours resource.Quantity `json:"gpuHours"`
	At       metav1.Time       `json:"at"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Reason string `json:"reason"`
}

// Runtime says how long pods run that do not say it (weft.sh/runtime or activeDeadlineSeconds), and how long they may say.
//
// +kubebuilder:validation:XValidation:rule="!has(self.default) || !has(self.max) || duration(self.default) <= duration(self.max)",message="default is longer than max"
type Runtime struct {
	// default is assumed of a pod that does not say, as far as max allows; without it that of the nearest queue above that has one, and
	// without any the least max. Where there is none of these either such a pod is a service: it holds the next hour, always anew.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(ms|s|m|h))+$') && duration(self) > duration('0s')",message="want a duration of more than 0, such as 90m or 6h"
	Default *metav1.Duration `json:"default,omitempty"`
	// max is the longest that a pod of this queue, or of one below, may say, and what is assumed of one that does not where there is no
	// default; without it any.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}([.][0-9]{1,3})?(ms|s|m|h))+$') && duration(self) > duration('0s')",message="want a duration of more than 0, such as 90m or 6h"
	Max *metav1.Duration `json:"max,omitempty"`
}

// Conditions of a Queue.
const (
	// ConditionValid is False when the queue cannot be used as it is: a cycle, a parent that is not there, guarantees above the
	// parent's. Pods of such a queue are held back, with the message. It is also False for a second default, which holds back nobody.
	ConditionValid = "Valid"
	// ConditionBudgetAlert is True when used and held reached one of the alert percents (reason PercentReached; the message begins with
	// the highest), or when the budget runs out before its period does if it is used as in the last day (reason BurnRate; where both are so
	// the projection stands behind the percent in the message).
	ConditionBudgetAlert = "BudgetAlert"
	// ConditionExhausted is True when the budget is used up.
	ConditionExhausted = "Exhausted"
)

// QueueStatus is a checkpoint of the ledger, and what runs. All numbers are those of the whole subtree.
type QueueStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	GPUs QueueStatusGPUs `json:"gpus,omitzero"`
	// pendingPods wait for GPUs, the queue or the budget.
	// +optional
	PendingPods int32 `json:"pendingPods,omitempty"`
	// budget is there for a queue that has one.
	// +optional
	Budget *BudgetStatus `json:"budget,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// QueueStatusGPUs counts GPUs, such as "7500m".
type QueueStatusGPUs struct {
	// +optional
	Running resource.Quantity `json:"running,omitzero"`
	// borrowed is what runs above the guarantee.
	// +optional
	Borrowed resource.Quantity `json:"borrowed,omitzero"`
	// pending is what pods ask for that wait, eligible that part of it which neither quota nor budget holds back.
	// +optional
	Pending resource.Quantity `json:"pending,omitzero"`
	// +optional
	Eligible resource.Quantity `json:"eligible,omitzero"`
}

// BudgetStatus is how the budget stands.
type BudgetStatus struct {
	// periodStart and periodEnd bound the period that the rest speaks of; periodEnd is null for period None.
	PeriodStart metav1.Time `json:"periodStart"`
	// +optional
	PeriodEnd *metav1.Time `json:"periodEnd,omitempty"`
	// asOf is the moment to which everything that ran is in used. Whoever adds what runs since gets the same total at any
	// later time.
	AsOf metav1.Time `json:"asOf"`
	// epoch counts the leaders of the ledger: a status of a smaller epoch is out of date.
	// +optional
	Epoch int64 `json:"epoch,omitempty"`
	// usedMilliGPUSeconds is exact, and what the scheduler computes with; used, held, limit and left are for people, in
	// GPU-hours with three decimals.
	UsedMilliGPUSeconds int64 `json:"usedMilliGPUSeconds"`
	// carriedMilliGPUSeconds is what was carried over from the period before.
	// +optional
	CarriedMilliGPUSeconds int64 `json:"carriedMilliGPUSeconds,omitempty"`
	// +optional
	Used string `json:"used,omitempty"`
	// +optional
	Held string `json:"held,omitempty"`
	// +optional
	Limit string `json:"limit,omitempty"`
	// +optional
	Left string `json:"left,omitempty"`
	// burnPerDay is what the last day used, in GPU-hours; exhaustedAt is when the budget is used up if it goes on so, if that is
	// before the period ends.
	// +optional
	BurnPerDay string `json:"burnPerDay,omitempty"`
	// +optional
	ExhaustedAt *metav1.Time `json:"exhaustedAt,omitempty"`
	// drainAt is when Drain begins to evict.
	// +optional
	DrainAt *metav1.Time `json:"drainAt,omitempty"`
}

// GPUClass says how the time of certain GPUs is counted and what it costs. The class of a GPU is the one with the highest
// priority that selects it, of equal ones the first by name; without any, an hour of it counts once and costs nothing.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=weft
// +kubebuilder:printcolumn:name="Weight",type=string,JSONPath=`.spec.weight`
// +kubebuilder:printcolumn:name="Price",type=string,JSONPath=`.spec.price.perGPUHour`
// +kubebuilder:printcolumn:name="Currency",type=string,JSONPath=`.spec.price.currency`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GPUClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec GPUClassSpec `json:"spec"`
}

// GPUClassList is a list of GPUClasses.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +kubebuilder:object:root=true
type GPUClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GPUClass `json:"items"`
}

// GPUClassSpec selects GPUs by all that is given, and says what they count.
type GPUClassSpec struct {
	// +optional
	Priority int32 `json:"priority,omitempty"`
	// products are values of the node label nvidia.com/gpu.product.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	Products []string `json:"products,omitempty"`
	// migProfiles select MIG instances of these profiles only, such as 1g.10gb.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=32
	MIGProfiles []string `json:"migProfiles,omitempty"`
	// nodeSelector selects nodes by their labels, for instance karpenter.sh/capacity-type: spot.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// weight is how often a GPU-hour is charged to budgets: "0.3" for spot, "2" for a model twice as dear; 0 to 1000, in
	// steps of a thousandth. What a pod is charged is rounded up to a whole milli-GPU.
	// +kubebuilder:default="1"
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]{1,3}([.][0-9]{1,3})?|1000([.]0{1,3})?|[0-9]{1,6}m|1k)$`
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 1000 : string(self).matches('^([0-9]{1,3}([.][0-9]{1,3})?|1000([.]0{1,3})?|[0-9]{1,6}m|1k)$')",message="want a weight from 0 to 1000 in steps of a thousandth, such as 0.3"
	Weight resource.Quantity `json:"weight"`
	// +optional
	Price *Price `json:"price,omitempty"`
}

// Price is what an hour of one GPU costs.
type Price struct {
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([0-9]{1,6}([.][0-9]{1,6})?|[0-9]{1,12}u|[0-9]{1,9}m|[0-9]{1,3}k)$`
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 999999 : string(self).matches('^([0-9]{1,6}([.][0-9]{1,6})?|[0-9]{1,12}u|[0-9]{1,9}m|[0-9]{1,3}k)$')",message="want a price from 0 to 999999 in steps of a millionth, such as 2.5"
	PerGPUHour resource.Quantity `json:"perGPUHour"`
	// currency is a code of ISO 4217.
	// +kubebuilder:validation:Pattern=`^[A-Z]{3}$`
	Currency string `json:"currency"`
}
